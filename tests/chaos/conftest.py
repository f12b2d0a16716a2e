"""The real llama-server, as the tests of whole services have it."""

from tests.real.conftest import llama_server

__all__ = ["llama_server"]
