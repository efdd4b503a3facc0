"""What engines of events share: the shapes of values, seen as images of channels."""

import torch
from torch import nn

from ..graph.operations import module_of
from ..graph.trace import value_of
from .dense import DenseRun

FLATTEN = ("flatten", "reshape", "view")  # flatten an image if the result is features


class Layerwise(DenseRun):
    """`DenseRun` that knows the shape of each value: features are channels of one pixel, tokens pixels of a row."""

    @property
    def shapes(self):
        """{node: shape of one sample}, kept by the network for images of this size."""
        key = "shapes", self.x.shape[1:]
        if key not in self.network.prepared:
            self.network.prepared[key] = self._found_shapes()
        return self.network.prepared[key]

    def _found_shapes(self):
        values, shapes = {}, {}
        for node in self.nodes:
            if node.op == "placeholder":
                values[node] = torch.cat([self.x[:1]] * 2)
            elif node in self.neurons:
                values[node] = values[node.all_input_nodes[0]]
            else:
                values[node] = value_of(self.graph, node, values)
            if isinstance(values[node], torch.Tensor):
                shapes[node] = tuple(values[node].shape[1:])
        return shapes

    def _image(self, node):
        """A sample's (channels, height, width); features are channels of one pixel, tokens pixels of a row."""
        shape = self.shapes.get(node, ())
        if len(shape) == 2:
            return shape[1], 1, shape[0]
        return shape if len(shape) == 3 else (*shape, 1, 1) if len(shape) == 1 else None

    def _as_image(self, node, values):
        """[..., *a sample's shape] as [..., channels, height, width]."""
        if len(self.shapes[node]) == 2:
            return values.unsqueeze(-3).movedim(-1, -3)
        return values.reshape(*values.shape[: values.ndim - len(self.shapes[node])], *self._image(node))

    def _as_sample(self, node, images):
        """[batch, channels, height, width] as [batch, *a sample's shape]."""
        if len(self.shapes[node]) == 2:
            return images.movedim(-3, -1).squeeze(-3)
        return images.reshape(len(images), *self.shapes[node])

    def _through(self, node):
        """The node, or the one whose value it passes on unchanged."""
        while isinstance(module_of(self.graph, node), (nn.Identity, nn.Dropout)):
            node = node.all_input_nodes[0]
        return node
