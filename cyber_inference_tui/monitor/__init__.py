"""What this machine is doing: memory, processors, heat and power, read without root."""
