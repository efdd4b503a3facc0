"""Networks on disk: saved weights, published checkpoints."""
