"""llama-server: finding it, its arguments, and one process from spawn to exit."""
