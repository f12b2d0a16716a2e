"""One sensor a kind of hardware: each reads values, or ``None`` for what is not told."""
