"""Writes the settings of client programs, so that they use this service: one file per client.

``clients/`` has a file per client: the paths of its settings, and what they should contain.
``json_text``, ``yaml_text`` and ``toml_text`` merge that into a user's file and keep the rest of
its text. ``connected`` remembers what was written and takes it back.
"""
