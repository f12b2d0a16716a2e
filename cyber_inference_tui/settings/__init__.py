"""The settings: their schema, reading them from all sources, and editing the file."""
