"""Layers of spikes as bits on native kernels: see event.h."""

import ctypes
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import FORMATS, Source, run
from .build import BLOCK

WORD = 64  # bits


def words_of(channels):
    return -(-channels // WORD)


def width_of(channels):
    """The tile that wastes least: 64, 32 or 16 channels at once."""
    return min((64, 32, 16), key=lambda width: (-(-channels // width) * width, -width))


@dataclass
class Spikes:
    """What a layer fired: bits [steps, batch, height, width, words]; a spike of channel c is worth worth[c]."""

    bits: torch.Tensor
    worth: torch.Tensor

    def dense(self):
        """theta s_t as [steps batch, channels, height, width], channels last in memory."""
        steps, batch, height, width, _ = self.bits.shape
        channels, pixels = len(self.worth), steps * batch * height * width
        out = torch.empty(steps * batch, height, width, channels, dtype=self.worth.dtype)
        run(f"unpack_{FORMATS[out.dtype]}", pixels, self.bits, out, self.worth, channels, least=1 << 10)
        return out.permute(0, 3, 1, 2)

    def pooled(self):
        """Sums over 2 x 2 windows as three planes of bits, and what their channels are worth."""
        steps, batch, height, width, words = self.bits.shape
        out = torch.empty(steps, batch, height // 2, width // 2, 3 * words, dtype=torch.int64)
        run("pool_bits", steps * batch, self.bits, out, height, width, words, least=8)
        return out


class Weights:
    """A convolution's weights as event.h reads them: [tile][tap][word][64][width], times what a spike is worth.

    Where the input has few channels, `group` neighbouring taps of a row of the kernel share a word.
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

    def seen(self, spikes):
        """The bits as these weights see them; to be kept until the layer has fired."""
        if self.pooled:
            return spikes.pooled()
        if self.group == 1:
            return spikes.bits
        *rows, width, _ = spikes.bits.shape
        out_width = (width + 2 * self.padding - self.kernel) // self.stride + 1
        out = torch.empty(*rows, out_width, -(-self.kernel // self.group), dtype=torch.int64)
        numbers = (width, out_width, self.into, self.kernel, self.stride, self.padding, self.group)
        run("gather_bits", out.shape[:-2].numel(), spikes.bits, out, *numbers, least=64)
        return out

    def source(self, bits):
        """This convolution of these bits."""
        *_, height, width, words = bits.shape
        pair = ctypes.c_longlong * 2
        across = (self.kernel, self.stride, self.padding) if self.group == 1 else (1, 1, 0)
        return Source(bits.data_ptr(), self.data.data_ptr(), height, width, words, pair(self.kernel, across[0]),
                      pair(self.stride, across[1]), pair(self.padding, across[2]))  # fmt: skip


class State:
    """Membrane and counts of a layer [batch, height, width, channels], channels filled up to whole tiles."""

    def __init__(self, shape, theta, bias, start=None):
        batch, channels, height, width = shape
        self.channels, self.tile = channels, width_of(channels)
        full = -(-channels // self.tile) * self.tile
        self.theta = torch.full((full,), torch.inf, dtype=theta.dtype)
        self.theta[:channels] = theta
        self.bias = torch.zeros_like(self.theta)
        self.bias[:channels] = 0 if bias is None else bias
        self.membrane = torch.zeros(batch, height, width, full, dtype=theta.dtype)
        self.membrane[..., :channels] = theta / 2 if start is None else start
        self.counts = torch.zeros_like(self.membrane)

    def sent(self):
        """Spikes so far [batch, channels, height, width]."""
        return self.counts[..., : self.channels].permute(0, 3, 1, 2)

    def _out(self, steps):
        batch, height, width, full = self.membrane.shape
        return torch.zeros(steps, batch, height, width, words_of(full), dtype=torch.int64)

    def _dense(self, dense):
        """Currents [steps, batch, channels, height, width] as [steps, batch, height, width, full]."""
        if dense is None:
            return None
        dense = dense.permute(0, 1, 3, 4, 2)
        return F.pad(dense, (0, self.membrane.shape[-1] - self.channels)).contiguous()

    def fire(self, steps, sources, dense):
        """The next `steps` steps behind (weights, bits) pairs and dense currents; bits [steps, ..., words]."""
        batch, height, width, full = self.membrane.shape
        out, dense = self._out(steps), self._dense(dense)
        step = dense[0].numel() if dense is not None and len(dense) > 1 else 0
        kind = FORMATS[self.theta.dtype]
        if not sources:
            run(f"if_bits_{kind}", batch * height * width, dense + self.bias, step, out, out[0].numel(), self.membrane,
                self.counts, self.theta, full, steps, least=256)  # fmt: skip
            return out
        array = (Source * len(sources))(*(weights.source(bits) for weights, bits in sources))
        sums = torch.empty(torch.get_num_threads(), max(BLOCK, steps * width) * self.tile, dtype=self.theta.dtype)
        run(f"event_layer_{self.tile}_{kind}", batch, ctypes.byref(array), len(sources), self.bias, dense, step,
            self.theta, self.membrane, self.counts, out, steps, batch, height, width, full, sums, sums.shape[1],
            least=1)  # fmt: skip
        return out
