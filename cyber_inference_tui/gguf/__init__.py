"""GGUF files: a bounded header reader, memory estimates, and the built-in demo model."""
