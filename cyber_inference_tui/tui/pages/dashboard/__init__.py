"""The Dashboard: the machine, the models, requests and events."""
