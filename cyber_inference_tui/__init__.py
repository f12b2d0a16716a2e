"""Run local models on your own machine: a service that loads, serves and unloads llama.cpp servers."""

__version__ = "0.1.0"
