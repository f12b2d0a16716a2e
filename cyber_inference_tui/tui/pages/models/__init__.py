"""The Models page, with actions and sentences that other pages use, too."""
