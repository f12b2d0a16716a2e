"""Measurements of the service, beside nginx and llama-server itself, and of the terminal app.

Run by hand.
"""
