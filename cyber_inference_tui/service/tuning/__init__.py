"""Looks for better settings of a model, by measuring."""
