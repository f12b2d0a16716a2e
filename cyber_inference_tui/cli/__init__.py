"""The command line: the only place that wires processes together."""
