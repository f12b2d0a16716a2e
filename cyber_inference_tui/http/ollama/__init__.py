"""Ollama's API: its requests and answers, translated to and from those of llama-server."""
