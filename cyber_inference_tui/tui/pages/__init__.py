"""The pages, each in its own package with its style sheet, tables, texts and dialogs."""
