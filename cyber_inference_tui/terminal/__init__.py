"""What the app and the command line share: characters, text widths, tones and table columns."""
