"""What a person configures: one schema, its sources merged, its file edited with care."""
