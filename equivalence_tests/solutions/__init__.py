"""Model solutions of the assignments: each scores full marks. Nothing imports them; students do not get them."""
