"""What would keep this machine from working: facts are gathered, then judged."""
