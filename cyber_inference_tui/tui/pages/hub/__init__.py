"""The hub page: searching and downloading."""
