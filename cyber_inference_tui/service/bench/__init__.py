"""Measures the speed, energy and memory of models."""
