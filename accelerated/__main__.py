"""`python -m accelerated`: the list of commands."""

import importlib.util
import sys

COMMANDS = {
    "run": "train a network, convert it to a spiking one, compare the two",
    "platform": "the same in a browser (needs the extra `platform`)",
    "benchmarks": "how fast all this is, as ratios to the limits",
}


def main():
    """Print the commands that this installation has."""
    for name, what in COMMANDS.items():
        if importlib.util.find_spec(f"{__package__}.{name}") is not None:
            print(f"python -m accelerated.{name:11} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
