"""Networks to train and convert, by name."""

from ..checks import one_of
from .small import MLP, ResidualCNN

MODELS = {"cnn": ResidualCNN, "mlp": MLP}


def make(name, image_shape, classes, width):
    """A ReLU network for images of shape (C, H, W); InputError for an unknown name."""
    return MODELS[one_of(name, MODELS, "model")](image_shape, classes, width)


__all__ = ["MLP", "MODELS", "ResidualCNN", "make"]
