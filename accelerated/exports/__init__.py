"""Networks on disk and out of the house: weights, published checkpoints, C, NIR, ONNX, scripts, folders."""
