"""Two networks small enough to train in seconds on a laptop: five spiking layers with skips, and two without."""

from torch import nn

from .resnet import Basic


class ResidualCNN(nn.Module):
    """Stem, two residual blocks with average pooling between, global average pooling, linear read-out: D = 5."""

    def __init__(self, image_shape, classes, width=1.0):
        super().__init__()
        channels = max(1, round(16 * width))
        self.conv, self.bn = nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.block1, self.pool = Basic(channels, channels), nn.AvgPool2d(2)
        self.block2, self.flat = Basic(channels, 2 * channels), nn.Flatten()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * channels, classes)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        x = self.block2(self.pool(self.block1(x)))
        return self.fc(self.flat(self.mean(x)))


class MLP(nn.Module):
    """Two hidden layers of 128 x width features: D = 2."""

    def __init__(self, image_shape, classes, width=1.0):
        super().__init__()
        pixels, hidden = image_shape[0] * image_shape[1] * image_shape[2], max(1, round(128 * width))
        self.flat = nn.Flatten()
        self.fc1, self.relu1 = nn.Linear(pixels, hidden), nn.ReLU()
        self.fc2, self.relu2 = nn.Linear(hidden, hidden), nn.ReLU()
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.fc3(self.relu2(self.fc2(self.relu1(self.fc1(self.flat(x))))))
