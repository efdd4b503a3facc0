"""Layers of spikes as bits on native kernels: see event.h."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from . import call
from .build import BLOCK, LOOKED_UP
from .structures import Source

WORD, BYTE = 64, 8  # bits
TABLES = 2**19  # with larger tables (in bytes), a layer adds its rows one by one


def words_of(channels):
    return -(-channels // WORD)


def width_of(channels):
    """The tile width with the least padding: 64, 32 or 16 channels."""
    return min((64, 32, 16), key=lambda width: (-(-channels // width) * width, -width))


@dataclass
class Spikes:
    """A layer's spikes: bits [steps, batch, height, width, words]; a spike of channel c has the value worth[c]."""

    bits: torch.Tensor
    worth: torch.Tensor

    def dense(self):
        """theta s_t as [steps batch, channels, height, width], channels last in memory."""
        steps, batch, height, width, _ = self.bits.shape
        channels, pixels = len(self.worth), steps * batch * height * width
        out = torch.empty(steps * batch, height, width, channels, dtype=self.worth.dtype)
        call(
            "unpack",
            out.dtype,
            least=1 << 10,
            bits=self.bits.reshape(pixels, -1),
            out=out.view(pixels, -1),
            worth=self.worth,
        )
        return out.permute(0, 3, 1, 2)

    def pooled(self):
        """Sums over 2 x 2 windows as three planes of bits, and the values of their channels."""
        steps, batch, height, width, words = self.bits.shape
        out = torch.empty(steps, batch, height // 2, width // 2, 3 * words, dtype=torch.int64)
        call("pool_bits", least=8, bits=self.bits.flatten(0, 1), out=out.flatten(0, 1))
        return out


class Weights:
    """A convolution's weights as event.h reads them: [tile][tap][word][64][width], times the value of a spike.

    If the input has few channels, `group` neighbouring taps of a row of the kernel share a word.
    """

    def __init__(self, weight, worth, stride, padding, width, pooled=False):
        out, self.into, self.kernel, _ = weight.shape
        self.stride, self.padding, self.pooled = stride, padding, pooled
        self.group = 1 if pooled else max(1, min(self.kernel, WORD // self.into))
        weight = weight * worth.reshape(-1, 1, 1)
        planes = torch.stack([weight / 4, weight / 2, weight] if pooled else [weight], 2)  # [out, into, plane, k, k]
        if self.group == 1:  # [out, taps, words, bits]: a word is 64 channels of one plane
            parts = planes.permute(0, 3, 4, 2, 1).flatten(1, 2)
            parts = F.pad(parts, (0, words_of(self.into) * WORD - self.into))
        else:  # a tap is a row of the kernel, a word `group` places in it
            parts = planes[:, :, 0].permute(0, 2, 3, 1)
            parts = F.pad(parts, (0, 0, 0, -self.kernel % self.group))
            parts = parts.reshape(out, self.kernel, -1, self.group * self.into)
            parts = F.pad(parts, (0, WORD - self.group * self.into))
        tiles, taps = -(-out // width), parts.shape[1]
        parts = F.pad(parts.reshape(out, taps, -1, WORD), (0, 0, 0, 0, 0, 0, 0, tiles * width - out))
        self.data = parts.reshape(tiles, width, taps, -1, WORD).permute(0, 2, 3, 4, 1).contiguous()
        self.bytes = min(WORD // BYTE, -(-self.into * self.group // (2 * BYTE)) * 2)

    @cached_property
    def words(self):
        """The number of words that a pixel reads in this convolution."""
        return self.data.shape[1] * self.data.shape[2]

    @cached_property
    def tables(self):
        """The sum of the rows of each set of eight spikes: [tile][tap][word][bytes][257][width], one unused."""
        sets = torch.arange(2**BYTE)[:, None] >> torch.arange(BYTE) & 1
        rows = self.data.unflatten(3, (-1, BYTE))[:, :, :, : self.bytes]
        return F.pad(torch.matmul(sets.to(rows.dtype), rows), (0, 0, 0, 1))

    def seen(self, spikes, in_place):
        """The bits as these weights read them; `in_place`: a pixel's words for a kernel row lie at that pixel."""
        bits = spikes.pooled() if self.pooled else spikes.bits
        if self.group == 1 and not (in_place and (self.kernel > 1 or self.stride > 1)):
            return bits
        *rows, width, many = bits.shape
        out_width = (width + 2 * self.padding - self.kernel) // self.stride + 1
        out = torch.empty(*rows, out_width, -(-self.kernel // self.group) * many, dtype=torch.int64)
        call("gather_bits", least=64, bits=bits.flatten(0, -3), out=out.flatten(0, -3), channels=self.into,
             kernel=self.kernel, stride=self.stride, padding=self.padding, group=self.group)  # fmt: skip
        return out

    def source(self, bits, by_tables):
        """This convolution of these bits."""
        data = self.tables if by_tables else self.data
        across = (self.kernel, self.stride, self.padding) if self.group == 1 and not by_tables else (1, 1, 0)
        kernel, stride, padding = zip((self.kernel, self.stride, self.padding), across, strict=True)
        return Source(bits, data, kernel, stride, padding, self.bytes)


def by_tables(tile, weights):
    """Whether a layer with tiles of that width looks up sums of eight spikes: it has few channels and small tables."""
    if tile == WORD or sum(each.words for each in weights) > LOOKED_UP:
        return False
    rows = sum(each.words * each.bytes for each in weights)
    return rows * 2**BYTE * tile * weights[0].data.element_size() <= TABLES


class State:
    """Membrane and counts of a layer [batch, height, width, channels], channels filled up to whole tiles."""

    def __init__(self, shape, theta, bias, start=None):
        batch, channels, height, width = shape
        self.channels, self.tile = channels, width_of(channels)
        full = -(-channels // self.tile) * self.tile
        self.theta = torch.full((full,), torch.finfo(theta.dtype).max, dtype=theta.dtype)
        self.theta[:channels] = theta
        self.bias = torch.zeros_like(self.theta)
        self.bias[:channels] = 0 if bias is None else bias
        self.fresh = start is None  # memory not initialised: the kernel begins with theta / 2 and no spikes
        self.membrane = torch.empty(batch, height, width, full, dtype=theta.dtype)
        self.counts = torch.empty_like(self.membrane)
        if start is not None:
            self.membrane[..., :channels], self.membrane[..., channels:] = start, 0
            self.counts.zero_()

    def sent(self):
        """Spikes so far [batch, channels, height, width]."""
        return self.counts[..., : self.channels].permute(0, 3, 1, 2)

    def _dense(self, dense):
        """Currents [steps, batch, channels, height, width] as [steps, batch, height, width, full]."""
        if dense is None:
            return None
        dense, more = dense.permute(0, 1, 3, 4, 2), self.membrane.shape[-1] - self.channels
        return (F.pad(dense, (0, more)) if more else dense).contiguous()

    def fire(self, steps, sources, dense):
        """The next `steps` steps behind (weights, spikes) pairs and dense currents; bits [steps, ..., words]."""
        batch, height, width, full = self.membrane.shape
        out, dense = torch.empty(steps, batch, height, width, words_of(full), dtype=torch.int64), self._dense(dense)
        kind, fresh, self.fresh = self.theta.dtype, int(self.fresh), False
        state = {"dense": dense, "theta": self.theta, "membrane": self.membrane, "counts": self.counts, "out": out,
                 "tile": self.tile, "fresh": fresh}  # fmt: skip
        if not sources:
            call("if_bits", kind, least=256, **state)
            return out
        tables = by_tables(self.tile, [weights for weights, _ in sources])
        made = [weights.source(weights.seen(spikes, tables), tables) for weights, spikes in sources]
        if tables:
            call("table_layer", kind, least=1, sources=made, bias=self.bias, **state)
            return out
        sums = torch.empty(torch.get_num_threads(), max(BLOCK, steps * width) * self.tile, dtype=kind)
        tiles = full // self.tile  # parts of narrower tiles would write into the same words
        by_tile = self.tile == WORD and (tiles % len(sums) == 0 or tiles >= 4 * len(sums))
        call("event_layer", kind, least=1, sources=made, bias=self.bias, by_tile=int(by_tile), room=sums, **state)
        return out
