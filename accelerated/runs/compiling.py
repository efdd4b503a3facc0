"""torch.compile where it works."""

import functools
import sys

import torch


@functools.cache
def works(device):
    """Whether torch.compile can compile here: it needs a C++ compiler (on a GPU, Triton); one line on stderr if not."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
        return True
    except Exception as error:  # no compiler, no headers, a processor that Inductor does not know, ...
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(f"isospike: torch.compile does not work here ({(lines or ['no reason given'])[0]}); going on without it",
              file=sys.stderr)  # fmt: skip
        return False


def compiled(module, device="cpu"):
    """`module` under torch.compile, or unchanged if that does not work."""
    return torch.compile(module) if works(torch.device(device).type) else module
