"""Examines the machine for problems: facts are gathered, then judged."""
