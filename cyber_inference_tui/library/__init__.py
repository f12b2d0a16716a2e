"""The models on this machine: files found, grouped, named and looked up by id or alias."""
