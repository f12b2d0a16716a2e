"""The admin API from the other side, for the command line and the terminal app."""
