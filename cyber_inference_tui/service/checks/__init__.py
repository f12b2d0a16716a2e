"""Tries what a model can do, and keeps the results."""
