"""The first page: the machine, the models, requests and events."""
