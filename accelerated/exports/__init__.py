"""Networks on disk: saved weights."""
