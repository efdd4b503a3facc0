"""Call each native kernel with valid arguments, then with each argument wrong in each way; run in its own process.

`python -m equivalence_tests.kernel_arguments NAME ...` prints what it is about to call, so that a crash has a name, and
ends with the number of refusals. Any wrong call that is not refused is an error.
"""

import sys

import torch

from accelerated import InputError
from accelerated.kernels import call
from accelerated.kernels.buffers import KINDS, Buffer
from accelerated.kernels.entries import ENTRIES, WHOLE
from accelerated.kernels.structures import Direct, Events, Source

BATCH = (5, 4, 3, 3)
SIZES = {
    "z_steps": 3, "steps": 3, "count": 4, "numbers": 20, "rows": 1, "pixels": 6, "words": 1, "channels": 16,
    "images": 4, "height": 4, "width": 4, "many": 1, "dense_steps": 3, "batch": 2, "enough": 8192, "kernel": 3,
    "padding": 1, "stride": 1, "group": 3, "size": 5 * 4 * 3 * 3, "down": 2, "across": 2, "spikes": 9, "step_rows": 1,
    "filled": 16,
}  # fmt: skip
NUMBERS = {
    "lowest": 0, "inner": 9, "period": 36, "unit": 0, "levels": 4, "shift": 0.5, "t": -1, "first": 1, "kernel": 3,
    "stride": 1, "padding": 1, "group": 3, "channels": 16, "fresh": 1, "by_tile": 0, "down": 2, "across": 2, "bound": 1,
    "lag": 0, "most": 4,
}  # fmt: skip


def size_of(size):
    """A declared size as a number."""
    return eval(size, {}, SIZES) if isinstance(size, str) else size


def buffer(declared):
    """A tensor as declared."""
    shape = [n for size in declared.shape for n in (BATCH if size is ... else (size_of(size),))]
    return torch.zeros(shape, dtype=KINDS.get(declared.kind, torch.float32))


def sources(by_tables):
    """One convolution of 3 x 3 over 16 channels."""
    seen = torch.zeros(3, 2, 4, 4, 3 if by_tables else 1, dtype=torch.int64)
    if by_tables:
        return [Source(seen, torch.zeros(1, 3, 3, 2, 257, 16), (3, 1), (1, 1), (1, 0), 2)]
    return [Source(seen, torch.zeros(1, 9, 1, 64, 16), (3, 3), (1, 1), (1, 1), 2)]


def events():
    """A convolution of 3 x 3 over 16 channels without spikes."""
    base, place = torch.zeros(2 * 3 * 2 * 4 + 1, dtype=torch.int64), torch.zeros(2 * 3 * 2 * 4, 5, dtype=torch.int32)
    entries, worth = torch.zeros(9, dtype=torch.int32), torch.ones(3, dtype=torch.int32)
    weight = torch.zeros(1, 3, 3, 16, 16, dtype=torch.int8)
    return [Events(entries, base, place, weight, worth, (4, 4), 16, (1, 1), (1, 1), 258)]


def directs():
    """Spikes of 16 channels at the same places."""
    worth, factor = torch.ones(3, dtype=torch.int32), torch.ones(16, dtype=torch.int32)
    bits, base = torch.zeros(2, 3, 2, 4, 4, 1, dtype=torch.int64), torch.zeros(2 * 3 * 2 * 4 + 1, dtype=torch.int64)
    return [Direct(bits, base, factor, worth)]


def arguments(name):
    """The right arguments of a kernel."""
    given = {key: buffer(declared) for key, declared in ENTRIES[name].arguments.items() if isinstance(declared, Buffer)}
    given |= {"period": NUMBERS["period"]} if "inner" in ENTRIES[name].arguments else {}
    given |= {
        key: NUMBERS[key] for key, declared in ENTRIES[name].arguments.items() if declared in (WHOLE, "real number")
    }
    lists = {Source: lambda: sources(name == "table_layer"), Events: events, Direct: directs}
    return given | {key: lists[kind]() for key, kind in ENTRIES[name].arguments.items() if kind in lists}


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


NUMBERS_OF = {  # of structures, and those that are wrong
    Source: {"kernel": ((4, 3), (4, 1), (0, 1), (3, 5)), "padding": ((-1, 0),)},
    Events: {"image": ((3, 4), (4, 5), (0, 0)), "stride": ((0, 1), (2, 1)), "padding": ((-1, 0), (2, 1)), "room": (0,),
             "channels": (15, 32)},
    Direct: {},
}  # fmt: skip


def wrong_list(given):
    """{how: a list of structures of which one part is wrong}."""
    (one,) = given
    tensors = {part: wrong(value) for part, value in one._asdict().items() if isinstance(value, torch.Tensor)}
    ways = [(f"{part}, {how}", part, t) for part, others in tensors.items() for how, t in others.items()]
    ways += [(f"{part} {n}", part, n) for part, numbers in NUMBERS_OF[type(one)].items() for n in numbers]
    return {how: [one._replace(**{part: value})] for how, part, value in ways}


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
    *((name, "bits", f"axis {axis} longer") for name in ("spike_rows", "spike_list") for axis in (1, 2)),
    ("spike_rows", "bits", "axis 3 longer"), ("spike_list", "bits", "axis 2 shorter"),
    ("whole_layer", "dense", "axis 0 shorter"), ("levels_after", "last", "axis 1 longer"),
    *(("value_bits", "values", f"axis 1 {how}") for how in ("shorter", "longer")),
}  # fmt: skip


def main(names):
    for name in names:
        given = arguments(name)
        call(name, tile=16, **given)
        count = 0
        for argument, value in given.items():
            if isinstance(value, list):
                ways = wrong_list(value) | ({"too many": value * 40} if name == "table_layer" else {})
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
