"""Damaged bytes at the doors; the parsers' own tests have such tests as well."""
