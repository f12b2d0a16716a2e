"""llama-server: its installation, arguments, processes, logs and memory."""
