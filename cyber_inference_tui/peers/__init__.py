"""Other boxes that run this program: pairing, their state, and the requests sent to them."""
