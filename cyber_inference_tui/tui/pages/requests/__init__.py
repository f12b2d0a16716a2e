"""The requests page: running and finished requests, and totals."""
