"""The service: everything composed, started and stopped together."""
