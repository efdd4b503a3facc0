"""Weights that timm fetches from the network."""

from ..checks import InputError


def fetch(name, image_shape, classes, **sizes):
    """timm's model with its published weights and a new read-out; InputError in one line if they cannot be fetched.

    `sizes` are patches (and windows): timm resamples published weights to them, so the network equals the one built
    without weights, and a run can be rebuilt from disk.
    """
    import timm

    try:
        return timm.create_model(
            name, pretrained=True, num_classes=classes, in_chans=image_shape[0], img_size=image_shape[1], **sizes
        )
    except Exception as error:  # network, hub and file system can raise anything
        raise InputError(
            f"the weights of {name} could not be fetched ({type(error).__name__}): is there a network?"
        ) from error
