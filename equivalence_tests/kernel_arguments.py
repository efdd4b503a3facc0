"""Call each native kernel with valid arguments, then with each argument wrong in each way; run in its own process.

`python -m equivalence_tests.kernel_arguments NAME ...` prints what it is about to call, so that a crash has a name, and
ends with the number of refusals. Any wrong call that is not refused is an error.
"""

import sys

import torch

from accelerated import InputError
from accelerated.kernels import call
from accelerated.kernels.entries import ENTRIES, EVENTS, SOURCES, WHOLE, Buffer, Events, Source

BATCH = (5, 4, 3, 3)
SIZES = {
    "z_steps": 3, "steps": 3, "count": 4, "numbers": 20, "rows": 1, "pixels": 6, "words": 1, "channels": 16,
    "images": 4, "height": 4, "width": 4, "many": 1, "dense_steps": 3, "batch": 2, "enough": 8192, "kernel": 3,
    "padding": 1, "stride": 1, "group": 3, "size": 5 * 4 * 3 * 3, "down": 2, "across": 2, "spikes": 9, "step_rows": 1,
}  # fmt: skip
NUMBERS = {
    "lowest": 0, "inner": 9, "period": 36, "unit": 0, "levels": 4, "shift": 0.5, "t": -1, "first": 1, "kernel": 3,
    "stride": 1, "padding": 1, "group": 3, "channels": 16, "fresh": 1, "by_tile": 0, "down": 2, "across": 2, "bound": 1,
    "lag": 0, "most": 4,
}  # fmt: skip
KINDS = {"real": torch.float32, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64,
         "double": torch.float64}  # fmt: skip


def size_of(size):
    """A declared size as a number."""
    return eval(size, {}, SIZES) if isinstance(size, str) else size


def buffer(declared):
    """A tensor as declared."""
    shape = [n for size in declared.shape for n in (BATCH if size is ... else (size_of(size),))]
    return torch.zeros(shape, dtype=KINDS[declared.kind])


def sources(by_tables):
    """One convolution of 3 x 3 over 16 channels."""
    seen = torch.zeros(3, 2, 4, 4, 3 if by_tables else 1, dtype=torch.int64)
    if by_tables:
        return [Source(seen, torch.zeros(1, 3, 3, 2, 257, 16), (3, 1), (1, 1), (1, 0), 2)]
    return [Source(seen, torch.zeros(1, 9, 1, 64, 16), (3, 3), (1, 1), (1, 1), 2)]


def events():
    """A convolution of 3 x 3 over 16 channels without spikes."""
    base, place = torch.zeros(3 * 2 * 4 + 1, dtype=torch.int64), torch.zeros(3 * 2 * 4, 5, dtype=torch.int32)
    entries, worth = torch.zeros(9, dtype=torch.int32), torch.ones(3, dtype=torch.int32)
    weight = torch.zeros(1, 3, 3, 32, 16, dtype=torch.int16)
    return [Events(entries, base, place, weight, worth, (4, 4), (1, 1), (1, 1), 258)]


def arguments(name):
    """The right arguments of a kernel."""
    given = {key: buffer(declared) for key, declared in ENTRIES[name].arguments.items() if isinstance(declared, Buffer)}
    given |= {"period": NUMBERS["period"]} if "inner" in ENTRIES[name].arguments else {}
    given |= {
        key: NUMBERS[key] for key, declared in ENTRIES[name].arguments.items() if declared in (WHOLE, "real number")
    }
    if SOURCES in ENTRIES[name].arguments:
        given[SOURCES] = sources(name == "table_layer")
    if EVENTS in ENTRIES[name].arguments:
        given[EVENTS] = events()
    return given


def wrong(tensor):
    """{how: a tensor that is not what was declared}."""
    ways = {
        "no tensor": tensor.numpy(),
        "another kind": tensor.to(torch.float16),
        "another device": tensor.to("meta"),
        "an axis more": tensor[None, None],
        "gaps": tensor.repeat_interleave(2, -1)[..., ::2],
    }
    for axis in range(tensor.ndim):
        ways[f"axis {axis} shorter"] = tensor.narrow(axis, 0, tensor.shape[axis] - 1).clone()
        ways[f"axis {axis} longer"] = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
    if tensor.ndim > 1 and tensor.shape[-1] != tensor.shape[-2]:
        ways["transposed"] = tensor.transpose(-1, -2)
    turned = tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.ndim > 1 else tensor
    if not turned.is_contiguous():
        ways["in another order"] = turned
    return ways


def wrong_sources(given):
    """{how: sources of which one part is wrong}."""
    (source,) = given
    ways = {}
    for part in ("bits", "weight"):
        ways |= {f"{part}, {how}": [source._replace(**{part: t})] for how, t in wrong(getattr(source, part)).items()}
    ways |= {f"kernel {k}": [source._replace(kernel=k)] for k in ((4, source.kernel[1]), (0, 1), (3, 5))}
    return ways | {"a negative padding": [source._replace(padding=(-1, 0))]}


def wrong_events(given):
    """{how: events of which one part is wrong}."""
    (event,) = given
    ways = {}
    for part in ("entries", "base", "place", "weight", "worth"):
        ways |= {f"{part}, {how}": [event._replace(**{part: t})] for how, t in wrong(getattr(event, part)).items()}
    numbers = {
        "image": ((3, 4), (4, 5), (0, 0)),
        "stride": ((0, 1), (2, 1)),
        "padding": ((-1, 0), (2, 1)),
        "room": (0,),
    }
    return ways | {f"{part} {n}": [event._replace(**{part: n})] for part, values in numbers.items() for n in values}


def refuses(name, argument, how, given):
    """Whether a call with a wrong argument is refused."""
    print(f"{name}: {argument}, {how}", flush=True)
    try:
        call(name, tile=16, **given)
    except InputError:
        return True
    return False


ALLOWED = {  # harmless: too much memory, borders that pooling drops, weights with numbers in the same order
    ("table_layer", "sources", "weight, an axis more"), ("event_layer", "sources", "weight, an axis more"),
    ("qcfs_counts", "totals", "axis 0 longer"), ("qcfs_backward", "sums", "axis 0 longer"),
    ("pool_bits", "bits", "axis 1 longer"), ("pool_bits", "bits", "axis 2 longer"),
    ("event_layer", "room", "axis 0 longer"), ("event_layer", "room", "axis 1 longer"),
    *(("whole_layer", "events", f"entries, axis 0 {how}") for how in ("shorter", "longer")),  # none of them is read
    *(("spike_list", "entries", f"axis 0 {how}") for how in ("shorter", "longer")),  # it writes no more than fit
    *((name, "bits", f"axis {axis} longer") for name in ("spike_rows", "spike_list") for axis in (2, 3)),
    ("spike_rows", "bits", "axis 4 longer"), ("spike_list", "bits", "axis 3 shorter"),
    ("whole_layer", "dense", "axis 0 shorter"),
    *(("value_bits", "values", f"axis 1 {how}") for how in ("shorter", "longer")),
}  # fmt: skip


def main(names):
    for name in names:
        given = arguments(name)
        call(name, tile=16, **given)
        count = 0
        for argument, value in given.items():
            if argument == EVENTS:
                ways = wrong_events(value)
            elif argument == SOURCES:
                ways = wrong_sources(value) | ({"too many": value * 40} if name == "table_layer" else {})
            else:
                ways = wrong(value) if isinstance(value, torch.Tensor) else {}
            for how, other in ways.items():
                if (name, argument, how) in ALLOWED:
                    continue
                assert refuses(name, argument, how, given | {argument: other}), "it was not refused"
                count += 1
        print(f"{name}: {count} refusals")


if __name__ == "__main__":
    main(sys.argv[1:])
