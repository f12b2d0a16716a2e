"""Shared by the app and the command line: characters, text widths, tones and table columns."""
