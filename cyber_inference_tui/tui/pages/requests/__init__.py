"""The Requests page: running and finished requests, and totals."""
