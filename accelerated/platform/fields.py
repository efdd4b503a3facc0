"""The fields of each page: what is asked, in plain words, what it costs, and what may be answered."""

import math
import re
from dataclasses import dataclass
from itertools import groupby

from . import networks
from .refusals import Refused

LONGEST = 60  # letters of an answer


@dataclass(frozen=True)
class Field:
    """One question. `kind`: text, choice, whole, number, record, or file; `least` of whole numbers and numbers."""

    name: str
    label: str
    help: str
    cost: str = ""
    kind: str = "choice"
    default: str = ""
    choices: tuple = ()  # (value, label, group)
    extra: tuple = ()  # (value, what stands in brackets behind its label)
    least: float = 0
    most: float = 10**6
    more: bool = False  # shown only on request

    @property
    def groups(self):
        """[(group, [(value, label)])] of a choice, in order."""
        grouped = groupby(self.choices, key=lambda choice: choice[2])
        return [(group, [choice[:2] for choice in members]) for group, members in grouped]

    def read(self, text):
        """The answer as a value; Refused with a sentence for one that cannot be."""
        text = str(text if text is not None else "").strip() or self.default
        if len(text) > LONGEST:
            raise Refused("This is too long.", field=self.name)
        if self.kind == "choice":
            if text not in [value for value, _, _ in self.choices]:
                raise Refused("{got} is not one of those offered.", field=self.name, got=text)
            return text
        if self.kind == "text":
            if not re.fullmatch(r"[\w.-]+( [\w.-]+)*", text):
                raise Refused("{got} has other signs than letters, digits, spaces and . _ -", field=self.name, got=text)
            return text
        if self.kind in ("whole", "number"):
            return self._number(text)
        return text

    def _number(self, text):
        try:
            value = int(text) if self.kind == "whole" else float(text)
        except ValueError:
            value = math.nan
        if not self.least <= value <= self.most:
            limits = {"least": f"{self.least:.10g}", "most": f"{self.most:.10g}", "got": text}
            if self.kind == "whole":
                raise Refused("{got} is not a whole number from {least} to {most}.", field=self.name, **limits)
            raise Refused("{got} is not a number from {least} to {most}.", field=self.name, **limits)
        return value


def _models():
    for family, members in networks.FAMILIES.items():
        for name, label in members.items():
            yield name, label, family


NAME = Field("name", "Name", "What the record is called in lists.", kind="text")
DATA = Field("data", "Data set", "The images that the network learns to tell apart.", "Larger images and more of them take "
             "longer, in proportion.", default="digits",
             choices=tuple((name, f"{data.label}: {data.note}", "") for name, data in networks.DATA.items()))  # fmt: skip
MODEL = Field("model", "Network", "The small ones are for a first look. ResNet and VGG are convolutional, ViT and Swin are "
              "transformers. In brackets: millions of weights.", "A larger network takes longer.", default="cnn",
              choices=tuple(_models()),
              extra=tuple((name, f"{millions} M") for name, millions in networks.WEIGHTS.items()))  # fmt: skip
SIZE = Field("size", "Side of the images", "Images are padded or enlarged to it. 0: as they are, or the least that the "
             "network takes.", "Twice the side is four times the work.", "whole", "0", most=512, more=True)  # fmt: skip
WIDTH = Field("width", "Width", "Scale of the network's channels: 1 is the published network.",
              "Half the width is a quarter of the work.", "number", "1", least=0.01, most=4, more=True)  # fmt: skip
OPTIMISER = Field("optimiser", "Optimiser", "How weights follow their gradients.",
                  choices=(("", "SGD for convolutional networks, AdamW for transformers", ""),
                           ("sgd", "SGD, with momentum", ""), ("adamw", "AdamW", "")))  # fmt: skip
LR = Field("lr", "Learning rate", "How far one step goes; it falls to 0 along a cosine. Empty: 0.1 (SGD) or 0.001 (AdamW). A "
           "second stage takes a tenth of it.", "Too large, and training fails; too small, and it learns little.", "number", "",
           least=0.0001, most=10)  # fmt: skip
BATCH = Field("batch", "Batch size", "Images that are looked at together before the weights change.",
              "A larger batch needs more memory.", "whole", "64", least=1, most=4096)  # fmt: skip
SEED = Field("seed", "Random seed", "The same seed gives the same run again.", "", "whole", "0", most=2**31)
DECAY = Field("weight_decay", "Weight decay", "How strongly weights are drawn to 0.", "", "number", "0.0005", most=1,
              more=True)  # fmt: skip

ANN = (
    NAME, DATA, MODEL, OPTIMISER, LR,
    Field("epochs", "Epochs", "How often the network sees every training image.", "Time grows with it.", "whole", "12",
          most=1000),
    BATCH, SEED, WIDTH, SIZE, DECAY,
)  # fmt: skip

UPLOAD = (
    NAME, DATA, MODEL, WIDTH, SIZE,
    Field("file", "File of weights", "A safetensors file of the network's weights: "
          "safetensors.torch.save_file(network.state_dict(), FILE). Pickles (what torch.save writes) are refused, since "
          "opening one runs the program that is in it.", "", "file"),
)  # fmt: skip

CNN_TYPES = (("qcfs", "QCFS: a threshold for each layer"), ("c-qcfs", "C-QCFS: a threshold for each channel"),
             ("s-qcfs", "S-QCFS: a threshold for each layer, always positive"),
             ("cs-qcfs", "CS-QCFS: a threshold for each channel, always positive"))  # fmt: skip
TRANSFORMER_TYPES = (("qcfs", "QCFS: a threshold for each layer"), ("h-qcfs", "H-QCFS: a threshold for each head"),
                     ("n-qcfs", "N-QCFS: a threshold for each neuron"),
                     ("hn-qcfs", "HN-QCFS: a threshold for each head, and for each neuron"))  # fmt: skip
ACTIVATION = Field(
    "activation", "Activation type", "What replaces ReLU: QCFS (quantisation, clip, floor, shift), a staircase of L steps up "
    "to a threshold that is learnt, and level above it.", "",
    default="", choices=(("", "The best for the network: CS-QCFS or HN-QCFS", ""),
                         *((value, label, "Convolutional networks") for value, label in CNN_TYPES),
                         *((value, label, "Transformers") for value, label in TRANSFORMER_TYPES if value != "qcfs")),
)  # fmt: skip

QANN = (
    NAME,
    Field("source", "Begin with", "A network that was trained already learns much faster. From scratch, choose data set and "
          "network below.", "", "record"),
    DATA, MODEL, ACTIVATION,
    Field("levels", "Steps L", "How many steps the staircase has. The spiking network can give the same answer at T = L.",
          "A larger L is more accurate, and needs more time steps.", "whole", "8", least=1, most=256),
    Field("initial_threshold", "Initial threshold", "Where thresholds begin: a positive number, or calibrated: the largest "
          "value that reaches the layer on some training images.", "", "threshold", "calibrated"),
    Field("epochs1", "Epochs with a threshold for each layer", "The first stage, which all types begin with.", "Time grows with it.", "whole", "10",
          most=1000),
    Field("epochs2", "Epochs with finer thresholds", "The second stage: for each channel, head or neuron. It is left out "
          "where the type has a threshold for each layer.", "Time grows with it.", "whole", "6", most=1000),
    OPTIMISER, LR, BATCH, SEED, WIDTH, SIZE, DECAY,
)  # fmt: skip

SCHEDULES = (
    ("all", "All three, to compare"), ("streaming", "Streaming: fire at once; the fastest, not exact"),
    ("integrate-then-fire", "Integrate, then fire: exact at T = L; each layer waits for the one before"),
    ("signed", "Signed: a spike can be taken back; exact once it has settled"),
)  # fmt: skip
TEST = (
    NAME,
    Field("network", "Test as", "The spiking network (SNN) in time steps, or the ordinary one (ANN) that it is made from.",
          default="snn", choices=(("snn", "SNN", ""), ("ann", "ANN", ""))),
    Field("source", "Record", "The network to test. A spiking network is made from a quantised one (QANN).", "", "record"),
    Field("test_batch", "Batch size", "Images that are simulated at once.", "A larger batch needs more memory.", "whole",
          "256", least=1, most=4096),
    Field("steps", "Time steps T", "How long the spiking network looks at an image. Accuracy is shown for 1, 2, 4, ... up to "
          "T; signed adds the T after which no neuron fires any more.", "Time grows with it.", "whole", "32", least=1, most=4096),
    Field("schedule", "When neurons fire", "Streaming is what hardware does. The other two give the quantised network's "
          "answer bit for bit.", "The exact ones take several times as long here.", default="all",
          choices=tuple((value, label, "") for value, label in SCHEDULES)),
    Field("calibration", "Calibration", "For streaming: a few steps before, from which neurons learn where to begin, so that it "
          "comes nearer to exact. SRP and COS are published methods.",
          "SRP's steps are added to the latency once, those of COS once for each layer.", default="none",
          choices=(("none", "None", ""), ("srp", "SRP", ""), ("cos", "COS", ""))),
    Field("pre_steps", "Steps of the calibration", "How many steps COS or SRP observes.", "", "whole", "4", least=1,
          most=256),
    Field("test_images", "Test images", "Only the first so many; 0 is all.", "Time grows with it.", "whole", "0",
          most=10**6, more=True),
)  # fmt: skip
ASKED = {"ann": ANN, "qann": QANN, "test": TEST}
