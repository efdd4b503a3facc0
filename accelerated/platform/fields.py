"""The fields of each form: label, help, cost, and valid answers."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ..schedules import SCHEDULES
from . import networks
from .refusals import Refused

LONGEST = 60  # characters of an answer


@dataclass(frozen=True)
class Field:
    """One field. `kind`: text, choice, whole, number, record, or file; `least` and `most` are for numbers."""

    name: str
    label: str
    help: str
    cost: str = ""
    kind: str = "choice"
    default: str = ""
    choices: tuple = ()  # (value, label, group)
    extra: tuple = ()  # (value, text in brackets after its label)
    least: float = 0
    most: float = 10**6
    more: bool = False  # under "More settings"

    @property
    def groups(self) -> list[tuple[str, list]]:
        """[(group, [(value, label)])] of a choice, in order."""
        grouped = groupby(self.choices, key=lambda choice: choice[2])
        return [(group, [choice[:2] for choice in members]) for group, members in grouped]

    def read(self, answer: object) -> Any:
        """The answer as a value; Refused with a sentence for one that is not valid."""
        text = str(answer if answer is not None else "").strip() or self.default
        if len(text) > LONGEST:
            raise Refused("This is too long.", field=self.name)
        if self.kind == "choice" and text not in [value for value, _, _ in self.choices]:
            raise Refused("{got} is not one of the choices.", field=self.name, got=text)
        if self.kind == "text" and not re.fullmatch(r"[\w.-]+( [\w.-]+)*", text):
            raise Refused(
                "{got} contains characters other than letters, digits, spaces and . _ -", field=self.name, got=text
            )
        return self._number(text) if self.kind in ("whole", "number") else text

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


def _models() -> Iterator[tuple[str, str, str]]:
    for family, members in networks.FAMILIES.items():
        for name, label in members.items():
            yield name, label, family


NAME = Field("name", "Name", "The name of the record in lists.", kind="text")
DATA = Field("data", "Data set", "The images that the network learns to classify.",
             "The time grows in proportion to the size and the number of the images.", default="digits",
             choices=tuple((name, f"{data.label}: {data.note}", "")
                           for name, data in networks.DATA.items()))  # fmt: skip
MODEL = Field("model", "Network", "The small ones are for a first look. ResNet and VGG are convolutional, ViT and Swin "
              "are transformers. In brackets: millions of weights.", "A larger network takes longer.", default="cnn",
              choices=tuple(_models()),
              extra=tuple((name, f"{millions} M") for name, millions in networks.WEIGHTS.items()))  # fmt: skip
SIZE = Field("size", "Side length of the images", "Images are padded or enlarged to this size. 0: their own size, or "
             "the smallest that the network accepts.", "Twice the side length means four times the work.", "whole", "0",
             most=512, more=True)  # fmt: skip
WIDTH = Field("width", "Width", "Factor for the number of channels: 1 is the published network.",
              "Half the width means a quarter of the work.", "number", "1", least=0.01, most=4, more=True)  # fmt: skip
OPTIMISER = Field("optimiser", "Optimiser", "How the weights are updated from their gradients.",
                  choices=(("", "SGD for convolutional networks, AdamW for transformers", ""),
                           ("sgd", "SGD, with momentum", ""), ("adamw", "AdamW", "")))  # fmt: skip
LR = Field("lr", "Learning rate", "The size of an update; it falls to 0 along a cosine. If empty: 0.1 (SGD) or 0.001 "
           "(AdamW). The second stage uses a tenth of it.",
           "If it is too large, training fails; if it is too small, the network learns little.", "number", "",
           least=0.0001, most=10)  # fmt: skip
BATCH = Field("batch", "Batch size", "The number of images per update of the weights.",
              "A larger batch needs more memory.", "whole", "64", least=1, most=4096)  # fmt: skip
SEED = Field("seed", "Random seed", "The same seed gives the same result again.", "", "whole", "0", most=2**31)
DECAY = Field("weight_decay", "Weight decay", "How strongly the weights are pulled towards 0.", "", "number", "0.0005",
              most=1, more=True)  # fmt: skip
RESTART = Field("after_restart", "If the machine is restarted", "A run that was interrupted can go on from its last "
                "whole epoch.", choices=(("", "Go on by itself", ""), ("wait", "Wait until I let it go on", "")),
                more=True)  # fmt: skip

ANN = (
    NAME, DATA, MODEL, OPTIMISER, LR,
    Field("epochs", "Epochs", "How often the network sees every training image.", "A larger number takes longer.",
          "whole", "12", most=1000),
    BATCH, SEED, WIDTH, SIZE, DECAY, RESTART,
)  # fmt: skip

UPLOAD = (
    NAME, DATA, MODEL, WIDTH, SIZE,
    Field("file", "File of weights", "A safetensors file of the network's weights: "
          "safetensors.torch.save_file(network.state_dict(), FILE). Pickles (what torch.save writes) are refused, "
          "because opening one can run any program inside it.", "", "file"),
)  # fmt: skip

CNN_TYPES = (("qcfs", "QCFS: one threshold per layer"), ("c-qcfs", "C-QCFS: one threshold per channel"),
             ("s-qcfs", "S-QCFS: one threshold per layer, always positive"),
             ("cs-qcfs", "CS-QCFS: one threshold per channel, always positive"))  # fmt: skip
TRANSFORMER_TYPES = (("qcfs", "QCFS: one threshold per layer"), ("h-qcfs", "H-QCFS: one threshold per head"),
                     ("n-qcfs", "N-QCFS: one threshold per neuron"),
                     ("hn-qcfs", "HN-QCFS: one threshold per head and per neuron"))  # fmt: skip
ACTIVATION = Field(
    "activation", "Activation type", "What replaces ReLU: QCFS (quantisation, clip, floor, shift), a staircase that "
    "rises in L steps to a learnt threshold and is constant above it.", "",
    default="", choices=(("", "The best for the network: CS-QCFS or HN-QCFS", ""),
                         *((value, label, "Convolutional networks") for value, label in CNN_TYPES),
                         *((value, label, "Transformers") for value, label in TRANSFORMER_TYPES if value != "qcfs")),
)  # fmt: skip

QANN = (
    NAME,
    Field("source", "Start from", "A network that is already trained learns much faster. To train from scratch, choose "
          "the data set and the network below.", "", "record"),
    DATA, MODEL, ACTIVATION,
    Field("levels", "Steps L", "The number of steps of the staircase. The spiking network can give the same answer at "
          "T = L.", "A larger L is more accurate, and needs more time steps.", "whole", "8", least=1, most=256),
    Field("initial_threshold", "Initial threshold", "The value before training: a positive number, or max, the largest "
          "value that reaches the layer on some training images.", "", "threshold", "max"),
    Field("epochs1", "Epochs with one threshold per layer", "The first stage, the same for all types.",
          "A larger number takes longer.", "whole", "10", most=1000),
    Field("epochs2", "Epochs with finer thresholds", "The second stage: one threshold per channel, head or neuron. It "
          "is skipped for types with one threshold per layer.", "A larger number takes longer.", "whole", "6",
          most=1000),
    OPTIMISER, LR, BATCH, SEED, WIDTH, SIZE, DECAY, RESTART,
)  # fmt: skip

WAYS = (("all", "All, to compare"),
        *((name, f"{name.capitalize()}: {schedule.description}") for name, schedule in SCHEDULES.items()))  # fmt: skip
TEST = (
    NAME,
    Field("network", "Test as", "The spiking network (SNN) in time steps, or the ordinary one (ANN) that it is made "
          "from.", default="snn", choices=(("snn", "SNN", ""), ("ann", "ANN", ""))),
    Field("source", "Record", "The network to test. A spiking network is made from a quantised one (QANN).", "",
          "record"),
    Field("bits", "Numbers", "In whole numbers, as chips compute, the spiking network can also be watched step by step "
          "on a page of its own.", "", default="0",
          choices=(("0", "As trained", ""), ("8", "Whole, weights of 8 bits", ""), ("4", "Whole, weights of 4 bits", "")),
          more=True),
    Field("test_batch", "Batch size", "The number of images that are simulated at once.",
          "A larger batch needs more memory.", "whole", "256", least=1, most=4096),
    Field("steps", "Time steps T", "The number of time steps for which the spiking network sees an image. Accuracy is "
          "shown for 1, 2, 4, ... up to T; signed and halving add the T after which no neuron fires any more.",
          "A larger number takes longer.", "whole", "32", least=1, most=4096),
    Field("schedule", "When neurons fire", "Streaming is what hardware does. The others give the quantised "
          "network's answer bit for bit.", "The exact ones take several times as long here.", default="all",
          choices=tuple((value, label, "") for value, label in WAYS)),
    Field("calibration", "Calibration", "For streaming: a few steps run first and correct the initial state of the "
          "neurons, so that the answer is closer to the exact one. SRP and COS are published methods.",
          "The steps of SRP are added to the latency once, those of COS once per layer.", default="none",
          choices=(("none", "None", ""), ("srp", "SRP", ""), ("cos", "COS", ""))),
    Field("pre_steps", "Steps of the calibration", "The number of steps that COS or SRP observes.", "", "whole", "4",
          least=1, most=256),
    Field("test_images", "Test images", "Use only this many, from the first on; 0 uses all.",
          "A larger number takes longer.", "whole", "0", most=10**6, more=True),
    RESTART,
)  # fmt: skip
FORMS = {"ann": ANN, "qann": QANN, "test": TEST}
