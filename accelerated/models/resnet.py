"""Residual networks (He et al. 2016) in their CIFAR forms, or with ImageNet's stem; average pooling throughout.

    relu(bn(conv(relu(bn(conv(x))))) + skip(x))        every sum is taken before the activation

The skip is the identity, or a 1 x 1 convolution with batch norm where the shape changes. Parameters at width 1:

    network      CIFAR-10 form       ImageNet form, 1000 classes
    resnet20         272,474
    resnet18      11,173,962         11,689,512
    resnet34      21,282,122         21,797,672
    resnet50      23,520,842         25,557,032
    resnet101     42,512,970         44,549,160
"""

from torch import nn

LARGE = 64  # images of this side or more get ImageNet's stem unless another stem is set


def conv_bn(into, out, size=3, stride=1):
    """A convolution without bias and its batch norm; padded so that only the stride shrinks the image."""
    return nn.Sequential(nn.Conv2d(into, out, size, stride, size // 2, bias=False), nn.BatchNorm2d(out))


def skip(into, out, stride):
    """What a block adds to its result: its input, brought to the block's shape."""
    return nn.Identity() if into == out and stride == 1 else conv_bn(into, out, 1, stride)


class Basic(nn.Module):
    """Two 3 x 3 convolutions and a skip."""

    expansion = 1

    def __init__(self, into, out, stride=1):
        super().__init__()
        self.conv1, self.relu1 = conv_bn(into, out, stride=stride), nn.ReLU()
        self.conv2, self.skip, self.relu2 = conv_bn(out, out), skip(into, out, stride), nn.ReLU()

    def forward(self, x):
        return self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.skip(x))


class Bottleneck(nn.Module):
    """1 x 1 down to `out` channels, 3 x 3 with the stride, 1 x 1 up to 4 `out`, and a skip.

    The last batch norm starts at 0 (zero-init residual): with a hundred quantised layers in a row, the straight-through
    gradient of a random network otherwise moves the first thresholds far away (docs/experiments.md).
    """

    expansion = 4

    def __init__(self, into, out, stride=1):
        super().__init__()
        self.conv1, self.relu1 = conv_bn(into, out, 1), nn.ReLU()
        self.conv2, self.relu2 = conv_bn(out, out, stride=stride), nn.ReLU()
        self.conv3, self.skip = conv_bn(out, 4 * out, 1), skip(into, 4 * out, stride)
        self.relu3 = nn.ReLU()
        nn.init.zeros_(self.conv3[1].weight)

    def forward(self, x):
        return self.relu3(self.conv3(self.relu2(self.conv2(self.relu1(self.conv1(x))))) + self.skip(x))


class ResNet(nn.Module):
    """Stem, stages of blocks (each but the first halves the image and doubles the channels), global mean, read-out."""

    def __init__(self, block, blocks, channels, image_shape, classes, width=1.0, stem="auto"):
        super().__init__()
        channels = max(1, round(channels * width))
        large = stem == "imagenet" or (stem == "auto" and image_shape[1] >= LARGE)
        self.stem = conv_bn(image_shape[0], channels, 7 if large else 3, 2 if large else 1)
        self.relu, self.pool = nn.ReLU(), nn.AvgPool2d(3, 2, 1) if large else nn.Identity()
        stages, into = [], channels
        for i, count in enumerate(blocks):
            out = channels * 2**i
            strides = [1 if i == 0 else 2] + [1] * (count - 1)
            for stride in strides:
                stages.append(block(into, out, stride))
                into = out * block.expansion
        self.blocks = nn.Sequential(*stages)
        self.mean, self.flat, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, classes)

    def forward(self, x):
        return self.fc(self.flat(self.mean(self.blocks(self.pool(self.relu(self.stem(x)))))))


RESNETS = {  # name: (block, blocks in each stage, channels of the first stage)
    "resnet18": (Basic, (2, 2, 2, 2), 64),
    "resnet20": (Basic, (3, 3, 3), 16),
    "resnet34": (Basic, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64),
}


def resnet(name):
    """The constructor (image_shape, classes, width=1.0, stem="auto") of a residual network by its name."""
    return lambda image_shape, classes, width=1.0, stem="auto": ResNet(
        *RESNETS[name], image_shape, classes, width, stem
    )
