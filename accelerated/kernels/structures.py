"""The structures of C that stand for what a layer of events reads; pairs are down and across."""

import ctypes
from typing import NamedTuple

import torch

from .buffers import Buffer, bits, integer, real, refused
from .build import LOOKED_UP


def _structure(pointers, *numbers):
    """A structure in C: pointers, then numbers and (names that end in 2) pairs of numbers."""
    kinds = {"2": ctypes.c_longlong * 2}
    fields = [(name, kinds.get(name[-1], ctypes.c_longlong)) for name in numbers]
    return type(
        "_Structure", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_void_p) for name in pointers] + fields}
    )


_Source = _structure(("bits", "weight"), "height", "width", "words", "kernel2", "stride2", "padding2", "bytes")
_Events = _structure(("entries", "base", "place", "weight", "worth"), "steps", "height", "width", "channels", "kernel2",
                     "stride2", "padding2", "room")  # fmt: skip
_Direct = _structure(("bits", "base", "factor", "worth"), "steps")


def _pair(values):
    return (ctypes.c_longlong * 2)(*values)


class Source(NamedTuple):
    """`source_t` in event.h: a convolution's view of one layer's spikes.

    bits [steps, batch, height, width, words]; weight [tiles, taps x words, rows, tile] without gaps.
    """

    bits: torch.Tensor
    weight: torch.Tensor
    kernel: tuple
    stride: tuple
    padding: tuple
    bytes: int

    def in_c(self):
        """The structure, with the addresses of its tensors."""
        pairs = map(_pair, (self.kernel, self.stride, self.padding))
        return _Source(self.bits.data_ptr(), self.weight.data_ptr(), *self.bits.shape[2:], *pairs, self.bytes)

    def check(self, name, layer):
        """Check a convolution of bits against the layer that it feeds."""
        sizes, by_tables = layer.sizes, layer.entry == "table_layer"
        inner = layer.within(name, "steps", "batch")
        inner.see("bits", bits("steps", "batch", "in_height", "in_width", "in_words"), self.bits)
        words = self.bits.shape[4]
        if min(*self.kernel, *self.stride) < 1 or min(self.padding) < 0:
            raise refused(layer.entry, name, "of positive kernel and stride", self[2:5])
        _seen(name, layer, self.bits.shape[2:4], self.kernel, self.stride, self.padding)
        if by_tables and self.kernel[1] != 1:
            raise refused(layer.entry, name, "one tap wide", self.kernel)
        rows = self.bytes * 257 if by_tables else 64
        wanted = sizes["channels"] // sizes["tile"] * self.kernel[0] * self.kernel[1] * words * rows * sizes["tile"]
        whole = isinstance(self.weight, torch.Tensor) and self.weight.is_contiguous()
        inner.see("weight", real(wanted), self.weight.view(-1) if whole else self.weight)
        if by_tables:
            if self.bytes not in (2, 4, 6, 8):
                raise refused(layer.entry, name, "looked up in 2, 4, 6 or 8 bytes", self.bytes)
            sizes["looked_up"] = sizes.get("looked_up", 0) + self.kernel[0] * words
            if sizes["looked_up"] > LOOKED_UP:
                raise refused(layer.entry, name, f"at most {LOOKED_UP} words in all", sizes["looked_up"])


class Events(NamedTuple):
    """`events_t` in whole.h: a convolution's view of one layer's lists of spikes.

    place [2 steps batch height, width + 1]; weight [tiles, down, across, channels, tile]; worth [steps].
    """

    entries: torch.Tensor
    base: torch.Tensor
    place: torch.Tensor
    weight: torch.Tensor
    worth: torch.Tensor
    image: tuple
    channels: int
    stride: tuple
    padding: tuple
    room: int

    def in_c(self):
        """The structure, with the addresses of its tensors."""
        tensors = (self.entries, self.base, self.place, self.weight, self.worth)
        pairs = map(_pair, (self.weight.shape[1:3], self.stride, self.padding))
        numbers = len(self.worth), *self.image, self.channels
        return _Events(*(tensor.data_ptr() for tensor in tensors), *numbers, *pairs, self.room)

    def check(self, name, layer):
        """Check a convolution of lists of spikes against the layer that it feeds."""
        inner, tiles = layer.within(name, "batch", "tile"), layer.sizes["channels"] // layer.sizes["tile"]
        inner.sizes |= {"height": self.image[0], "width": self.image[1]}
        inner.see("worth", integer("steps"), self.worth)
        inner.see("base", Buffer("int64", ("2 * steps * batch * height + 1",)), self.base)
        inner.see("place", integer("2 * steps * batch * height", "width + 1"), self.place)
        inner.see("entries", integer("spikes"), self.entries)
        inner.see("weight", Buffer("int8", (tiles, "down", "across", self.channels, "tile")), self.weight)
        kernel = self.weight.shape[1:3]
        if min(*kernel, *self.stride, *self.image) < 1 or min(self.padding) < 0 or self.room < 1:
            raise refused(layer.entry, name, "of positive kernel, stride, image and room", self[4:])
        _in_time(name, layer, self.worth)
        _seen(name, layer, self.image, kernel, self.stride, self.padding)


class Direct(NamedTuple):
    """`direct_t` in whole.h: spikes that arrive where they were fired.

    bits [2, steps, batch, height, width, words]; base as in `Events`; factor [channels], filled up to tiles.
    """

    bits: torch.Tensor
    base: torch.Tensor
    factor: torch.Tensor
    worth: torch.Tensor

    def in_c(self):
        """The structure, with the addresses of its tensors."""
        return _Direct(*(tensor.data_ptr() for tensor in self), len(self.worth))

    def check(self, name, layer):
        """Check spikes of neurons at the same places as the layer's."""
        inner = layer.within(name, "batch", "height", "width", "channels")
        inner.see("worth", integer("steps"), self.worth)
        inner.see("bits", bits(2, "steps", "batch", "height", "width", "-(-channels // 64)"), self.bits)
        inner.see("base", Buffer("int64", ("2 * steps * batch * height + 1",)), self.base)
        inner.see("factor", integer("channels"), self.factor)
        _in_time(name, layer, self.worth)


def _in_time(name, layer, worth):
    """InputError for spikes of more steps than the layer takes."""
    most = layer.sizes["steps"] + layer.sizes["lag"]
    if len(worth) > most:
        raise refused(layer.entry, name, f"of at most {most} steps", len(worth))


def _seen(name, layer, image, *convolution):
    """InputError unless a convolution of an image has as many pixels as the layer."""
    seen = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(image, *convolution, strict=True)]
    if seen != [layer.sizes["height"], layer.sizes["width"]]:
        wanted = f"seen by {layer.sizes['height']} x {layer.sizes['width']} pixels"
        raise refused(layer.entry, name, wanted, seen)
