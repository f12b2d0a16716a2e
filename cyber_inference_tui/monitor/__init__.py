"""Reads the state of this machine without root: memory, processors, temperatures, power and
GPUs."""
