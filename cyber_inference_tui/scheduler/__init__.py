"""Decides which models are loaded, and starts and stops their servers."""
