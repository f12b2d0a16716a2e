"""Run local models: a service that loads, serves and unloads llama.cpp servers by itself."""

__version__ = "0.1.0"
