"""A sensor for each kind of hardware: it reads values, or ``None`` for unknown ones."""
