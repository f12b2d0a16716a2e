"""A service under the faults of a real day, planned by a seed: see docs/reliability.md."""
