"""The terminal app: a client of the service, on this machine or another."""
