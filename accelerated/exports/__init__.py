"""Networks leave the house, and come back: saved weights."""
