"""Getting a llama-server onto this machine without touching the system."""
