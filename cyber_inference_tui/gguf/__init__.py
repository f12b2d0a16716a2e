"""GGUF files: a bounded header reader, what it tells of a model, and the built-in demo model."""
