"""The pages: each a module, with its style beside it."""
