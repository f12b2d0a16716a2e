"""The widgets of our own that the pages are made of."""
