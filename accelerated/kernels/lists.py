"""Spikes of networks in whole numbers as lists, and the layers that read them, on native kernels: see whole.h."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import call
from .entries import Events
from .events import words_of

LARGEST = 2**15 - 1  # of 16 bits


def tile_of(channels):
    """The tile width with the least padding: 128, 64, 32 or 16 channels."""
    return min((128, 64, 32, 16), key=lambda width: (-(-channels // width) * width, -width))


class Lists(NamedTuple):
    """The spikes of a layer, row by row of its pixels; worth [steps] is that of one spike."""

    entries: torch.Tensor
    base: torch.Tensor
    place: torch.Tensor
    worth: torch.Tensor
    image: tuple

    @classmethod
    def of(cls, bits, channels, worth, window=(1, 1)):
        """The lists of bits [2, steps, batch, height, width, words]; a pixel is the sum over a window."""
        _, steps, batch, height, width, _ = bits.shape
        (down, across), bits = window, bits.flatten(1, 2)
        image = height // down, width // across
        rows = steps * batch * image[0]
        place, total = torch.empty(rows, image[1] + 1, dtype=torch.int32), torch.empty(rows, dtype=torch.int64)
        call("spike_rows", least=32, bits=bits, place=place, total=total, down=down, across=across)
        base = F.pad(total.cumsum(0), (1, 0))
        room = 2 ** int(base[-1]).bit_length()  # of few different sizes: calls of the same sizes are checked once
        entries = torch.empty(room, dtype=torch.int32)
        call("spike_list", least=32, bits=bits, base=base, entries=entries, down=down, across=across, channels=channels)
        return cls(entries, base, place, worth, image)


def planes_of(values, least):
    """Where whole values [steps, batch, height, width, channels] are >= `least` or <= -`least`, as planes of bits."""
    *pixels, channels = values.shape
    bits = torch.empty(2, *pixels, words_of(channels), dtype=torch.int64)
    call(
        "value_bits", least=64, values=values.reshape(-1, channels), bits=bits.view(2, -1, bits.shape[-1]), bound=least
    )
    return bits


class Rows:
    """A convolution's whole weights [out, in, down, across], as whole.h reads them."""

    def __init__(self, weight, stride, padding):
        out, tile = len(weight), tile_of(len(weight))
        self.stride, self.padding = stride, padding
        self.room = LARGEST // max(1, int(weight.abs().max()))
        rows = torch.cat([weight, -weight], 1).to(torch.int16)
        rows = F.pad(rows, (0, 0, 0, 0, 0, 0, 0, -out % tile)).unflatten(0, (-1, tile))
        self.data = rows.permute(0, 3, 4, 2, 1).contiguous()

    def events(self, lists):
        """This convolution of these lists."""
        return Events(
            lists.entries,
            lists.base,
            lists.place,
            self.data,
            lists.worth,
            lists.image,
            self.stride,
            self.padding,
            self.room,
        )


class WholeLayer:
    """Membranes (u - N) D, levels sent and spikes emitted of a layer; channels are filled up to whole tiles.

    `shape` is (batch, channels, height, width), `step` D, [1 or pixels, channels]; levels are in lowest..most; `bias`
    [channels] has arrived at first.
    """

    def __init__(self, shape, step, lowest, most, bias=None):
        batch, self.channels, height, width = shape
        self.tile, self.lowest, self.most, self.fresh = tile_of(self.channels), lowest, most, 1
        more = -self.channels % self.tile
        self.step = F.pad(step.to(torch.int32), (0, more), value=1).contiguous()
        start = torch.zeros(self.channels) if bias is None else bias
        start = F.pad(start.to(torch.int32), (0, more))
        self.membrane = start.expand(batch, height, width, -1).contiguous()
        self.sent, self.emitted = (torch.empty_like(self.membrane, dtype=torch.int16) for _ in range(2))

    def add(self, values):
        """Add whole values [batch, channels, height, width] to what has arrived."""
        self.membrane[..., : self.channels] += values.int().permute(0, 2, 3, 1)

    def fire(self, events, worth, lag, dense=None):
        """Planes of bits of the spikes in the next steps, each worth[t] levels; the first follows `lag` steps of input.

        `dense` [steps, batch, channels, height, width] are whole values that arrive beside the events.
        """
        size = 2, len(worth), *self.membrane.shape[:3], words_of(self.channels)
        new = torch.empty if self.membrane.shape[-1] % 64 == 0 else torch.zeros  # tiles may leave a part of a word
        out = new(size, dtype=torch.int64)
        if dense is not None:
            more = self.membrane.shape[-1] - self.channels
            dense = F.pad(dense.int().permute(0, 1, 3, 4, 2), (0, more)).contiguous()
        call("whole_layer", least=1, tile=self.tile, events=events, dense=dense, step=self.step, worth=worth,
             membrane=self.membrane, sent=self.sent, emitted=self.emitted, out=out, lag=lag, fresh=self.fresh,
             most=self.most, lowest=self.lowest)  # fmt: skip
        self.fresh = 0
        return out

    def of_channels(self, values):
        """A state without the channels that fill up tiles, [batch, channels, height, width]."""
        return values[..., : self.channels].permute(0, 3, 1, 2)
