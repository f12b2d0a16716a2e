"""The models page, and the actions and sentences that other pages share with it."""
