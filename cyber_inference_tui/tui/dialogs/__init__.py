"""Dialogs that open in front of a page."""
