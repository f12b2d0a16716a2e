"""The pages, a folder each: the page and its style, its tables, what it says and asks."""
