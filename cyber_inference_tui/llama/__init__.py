"""llama-server: finding and installing it, its arguments, its processes, its logs and its
memory."""
