"""Which model is loaded when: pure policy, and the one owner that carries it out."""
