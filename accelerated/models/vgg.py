"""VGG-16 with batch norm (Simonyan and Zisserman 2015): 13 convolutions, average pooling, three linear layers.

Its dropout is 0, as in the published code of QCFS; the modules keep the names of parameters what they were.

Parameters at width 1: 33,646,666 for 32 x 32 images and 10 classes, 138,365,992 for 224 x 224 and 1000.
"""

from torch import nn

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
LARGE = 224  # from this side on, the linear layers read 7 x 7 positions


class VGG16(nn.Module):
    """Images whose side is at least 32; below 224 the linear layers read one position, the mean of all."""

    def __init__(self, image_shape, classes, width=1.0, stem="auto"):
        super().__init__()
        layers, into = [], image_shape[0]
        for stage in STAGES:
            for channels in stage:
                out = max(1, round(channels * width))
                layers += [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
                into = out
            layers.append(nn.AvgPool2d(2))
        self.features = nn.Sequential(*layers)
        side = 7 if stem == "imagenet" or (stem == "auto" and image_shape[1] >= LARGE) else 1
        self.mean, self.flat = nn.AdaptiveAvgPool2d(side), nn.Flatten()
        hidden = max(1, round(4096 * width))
        self.classifier = nn.Sequential(
            nn.Linear(into * side * side, hidden), nn.ReLU(), nn.Dropout(0),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0), nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.flat(self.mean(self.features(x))))
