"""What both packages share and neither owns: the version, and the one error for bad input.

`reference` and `accelerated` never import each other, so that either can be read, tested and replaced alone.
"""

__version__ = "0.2.0"


class InputError(ValueError):
    """The caller's input is wrong; the message is one line that names the value and what would be valid."""

    reported = False  # whether another process prints it
    shared = False  # whether it is raised in every process
