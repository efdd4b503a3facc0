"""Spikes of networks in whole numbers as lists, and the layers that read them, on native kernels: see whole.h."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from . import call
from .build import COPIED
from .events import words_of
from .structures import Direct, Events

LARGEST = 2**15 - 1  # of 16 bits
BYTE = 2**7 - 1  # of 8 bits, and its negative


def tile_of(channels):
    """The tile width with the least padding: 64, 32 or 16 channels."""
    return min((64, 32, 16), key=lambda width: (-(-channels // width) * width, -width))


class Lists(NamedTuple):
    """The spikes of a layer, row by row of its pixels; worth [steps] is that of one spike, bits are unlisted ones."""

    bits: torch.Tensor
    entries: torch.Tensor
    base: torch.Tensor
    place: torch.Tensor
    worth: torch.Tensor
    image: tuple
    channels: int

    @classmethod
    def of(cls, bits, channels, worth, window=(1, 1)):
        """The lists of bits [2, steps, batch, height, width, words]; a pixel is the sum over a window."""
        (down, across), flat = window, bits.flatten(0, 2)
        image = flat.shape[1] // down, flat.shape[2] // across
        rows = len(flat) * image[0]
        place, total = torch.empty(rows, image[1] + 1, dtype=torch.int32), torch.empty(rows, dtype=torch.int64)
        call("spike_rows", least=32, bits=flat, place=place, total=total, down=down, across=across)
        base = torch.from_numpy(np.concatenate([[0], total.numpy().cumsum()]))
        room = 2 ** (int(base[-1]) + COPIED).bit_length()  # few different sizes: the same ones are checked only once
        entries = torch.empty(room, dtype=torch.int32)
        call("spike_list", least=32, bits=flat, base=base, entries=entries, down=down, across=across, channels=channels)
        return cls(bits, entries, base, place, worth, image, channels)


def planes_of(values, least):
    """Where whole values [steps, batch, height, width, channels] are >= `least` or <= -`least`, as planes of bits."""
    *pixels, channels = values.shape
    bits = torch.empty(2, *pixels, words_of(channels), dtype=torch.int64)
    call(
        "value_bits", least=64, values=values.reshape(-1, channels), bits=bits.view(2, -1, bits.shape[-1]), bound=least
    )
    return bits


class Rows:
    """A convolution's whole weights [out, in, down, across], as whole.h reads them.

    A weight is the sum of digits d_i 255^i with |d_i| <= 127: one of 8 bits has one digit.
    """

    def __init__(self, weight, stride, padding):
        self.stride, self.padding, self.digits = stride, padding, []
        weight, factor = weight.long(), 1
        while weight.any() or not self.digits:
            digit = (weight + BYTE) % (2 * BYTE + 1) - BYTE
            self.digits.append((factor, _packed(digit), LARGEST // max(1, int(digit.abs().max()))))
            weight, factor = (weight - digit) // (2 * BYTE + 1), factor * (2 * BYTE + 1)

    def of(self, lists):
        """This convolution of these lists: `Events` for each digit."""
        _, entries, base, place, worth, image, channels = lists
        return [
            Events(entries, base, place, packed, worth * factor, image, channels, self.stride, self.padding, room)
            for factor, packed, room in self.digits
        ]


def _packed(weight):
    """Rows [tiles, down, across, in, tile] of weights.

    Bytes lie in pairs: 128 + channel i, then channel i + tile / 2, as whole_width.h takes them apart.
    """
    out, tile = len(weight), tile_of(len(weight))
    rows = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, -out % tile)).unflatten(0, (-1, 2, tile // 2))
    lower, upper = rows[:, 0] + BYTE + 1, rows[:, 1]
    return torch.stack([lower, upper], -1).permute(0, 3, 4, 2, 1, 5).flatten(-2).to(torch.int8).contiguous()


class Factors:
    """A whole factor for each channel [channels], of spikes that arrive where they were fired."""

    def __init__(self, factor):
        self.data = F.pad(factor.to(torch.int32), (0, -len(factor) % tile_of(len(factor))))

    def of(self, lists):
        """These lists' spikes, each times its factor."""
        return [Direct(lists.bits, lists.base, self.data, lists.worth)]


class Neurons:
    """The settling neurons of a layer, whose channels are filled up to whole tiles.

    `image` is (channels, height, width), `step` D, [1 or pixels, channels]; levels are in lowest..most; `bias`
    [channels] arrives at first.
    """

    def __init__(self, image, step, lowest, most, bias=None):
        self.channels, *self.pixels = image
        self.tile, self.lowest, self.most = tile_of(self.channels), lowest, most
        more = -self.channels % self.tile
        self.step = F.pad(step.to(torch.int32), (0, more), value=1).contiguous()
        start = torch.zeros(self.channels) if bias is None else bias
        self.start = F.pad(start.to(torch.int32), (0, more))


class WholeLayer:
    """The state of `Neurons` for a batch: membranes (u - N) D, levels sent, spikes emitted."""

    def __init__(self, neurons, batch):
        self.neurons, self.channels, self.fresh = neurons, neurons.channels, 1
        size = batch, *neurons.pixels, len(neurons.start)
        self.membrane = torch.empty(size, dtype=torch.int32)
        self.sent, self.emitted = (torch.empty(size, dtype=torch.int16) for _ in range(2))

    def fire(self, spikes, worth, lag, dense=None, fired=None):
        """Planes of bits of the spikes in the next steps, each worth[t] levels; the first follows `lag` steps of input.

        `dense` [steps, batch, channels, height, width] are whole values that arrive beside spikes; fired
        [steps, batch] becomes True where an image's neurons fire.
        """
        fired = torch.zeros(len(worth), len(self.membrane), dtype=torch.bool) if fired is None else fired
        size = 2, len(worth), *self.membrane.shape[:3], words_of(self.channels)
        out = torch.zeros(size, dtype=torch.int64)
        if dense is not None:
            dense = dense.int().permute(0, 1, 3, 4, 2)
            more = self.membrane.shape[-1] - self.channels
            dense = (F.pad(dense, (0, more)) if more else dense).contiguous()
        events, directs = ([one for one in spikes if isinstance(one, kind)] for kind in (Events, Direct))
        n = self.neurons
        call("whole_layer", least=1, tile=n.tile, events=events, directs=directs, dense=dense, step=n.step,
             start=n.start, worth=worth, membrane=self.membrane, sent=self.sent, emitted=self.emitted, out=out,
             fired=fired, lag=lag, fresh=self.fresh, most=n.most, lowest=n.lowest)  # fmt: skip
        self.fresh = 0
        return out

    def levels_after(self, bits, worth, dtype):
        """Levels after each of the steps that were fired last, [steps, batch, channels, height, width]."""
        out = torch.empty(len(worth), *self.sent.shape[:3], self.channels, dtype=dtype)
        call("levels_after", dtype=dtype, least=64, bits=bits.flatten(2, 4), worth=worth, last=self.sent.flatten(0, 2),
             out=out.flatten(1, 3), channels=self.channels)  # fmt: skip
        return out.permute(0, 1, 4, 2, 3)

    def of_channels(self, values):
        """A state without the channels that fill up tiles, [batch, channels, height, width]."""
        return values[..., : self.channels].permute(0, 3, 1, 2)
