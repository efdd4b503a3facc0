"""Two networks small enough to train in seconds on a laptop: five spiking layers with skips, and two without."""

from torch import nn


class ResidualBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + skip(x)); the sum is taken before the activation."""

    def __init__(self, into, out):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        same = into == out
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv2d(into, out, 1, bias=False), nn.BatchNorm2d(out))
        self.relu2 = nn.ReLU()

    def forward(self, x):
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + self.skip(x))


class ResidualCNN(nn.Module):
    """Stem, two residual blocks with average pooling between, global average pooling, linear read-out: D = 5."""

    def __init__(self, image_shape, classes, width=16):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.block1, self.pool = ResidualBlock(width, width), nn.AvgPool2d(2)
        self.block2, self.flat = ResidualBlock(width, 2 * width), nn.Flatten()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        x = self.block2(self.pool(self.block1(x)))
        return self.fc(self.flat(self.mean(x)))


class MLP(nn.Module):
    """Two hidden layers of 8 x width features: D = 2."""

    def __init__(self, image_shape, classes, width=16):
        super().__init__()
        pixels, hidden = image_shape[0] * image_shape[1] * image_shape[2], 8 * width
        self.flat = nn.Flatten()
        self.fc1, self.relu1 = nn.Linear(pixels, hidden), nn.ReLU()
        self.fc2, self.relu2 = nn.Linear(hidden, hidden), nn.ReLU()
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.fc3(self.relu2(self.fc2(self.relu1(self.fc1(self.flat(x))))))
