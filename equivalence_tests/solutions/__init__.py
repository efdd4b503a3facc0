"""Model solutions of the assignments: each scores full marks. Not given to students; nothing imports them but a test."""
