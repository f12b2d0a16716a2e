"""The Hub page: searching and downloading models."""
