"""Reads the state of this machine without root: memory, processors, heat, power and GPUs."""
