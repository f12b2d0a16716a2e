"""Frees the disk: gathers the facts, makes the plan, and deletes."""
