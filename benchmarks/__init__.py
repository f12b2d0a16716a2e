"""Measurements of the service beside nginx and llama-server itself; run by hand."""
