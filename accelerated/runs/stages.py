"""The stages of a run: ReLU, then Algorithm 1's layer thresholds and finer ones; each epoch can be gone on from."""

import copy
import time
from functools import partial

import torch
from torch import nn

from .. import data as datasets
from ..activation import QCFS
from ..checks import InputError
from ..exports.weights import activations, load_weights, thresholds_in, whole_file
from ..graph.timm import with_sites
from ..models import TRANSFORMERS, make
from . import distributed, learning
from .compiling import compiled
from .evaluation import laid_out, shown
from .folders import digest, weights_to_start_with
from .journal import memory, per_cent


def form_of(config):
    """How a transformer is brought into the form that is quantised."""
    return {"style": config.placement, "norm": config.norm, "mask": config.mask}


def network_for(config, data):
    """The untrained network of a run (or with published weights): of ReLU, or of GELU where the first stage asks so."""
    shape = data.shape, data.classes, config.width, config.stem, config.blocks, config.pretrained
    network = make(config.model, *shape)
    return with_sites(network, **form_of(config)) if config.model in TRANSFORMERS and not config.gelu else network


def smallest(network):
    """{layer: its smallest threshold}: raw ones may leave the positive range while they train (3.3.5)."""
    return {name: float(m.threshold.detach().min()) for name, m in network.named_modules() if isinstance(m, QCFS)}


def stage_of(config):
    """The number of the stage whose network `config.start` holds; InputError if stages before it are to be trained."""
    shapes = thresholds_in(weights_to_start_with(config)).values()
    stage = 0
    if shapes:
        stage = 2 if any(shapes) else 1
    if any(config.epochs[:stage]):
        zeros = " ".join(["0"] * stage)
        raise InputError(f"{config.start} holds a network of {learning.STAGES[stage]}: begin --epochs with {zeros}")
    if stage and config.until == "relu":
        raise InputError(f"{config.start} holds a quantised network: choose until training or simulation")
    return stage


def origin_of(config):
    """{"stage": its number, "sha256": digest of the file} of the weights that `config.start` names."""
    return {"stage": stage_of(config), "sha256": digest(weights_to_start_with(config))}


class Stages:
    """All stages of one run. `run()` gives (network, {stage: test accuracy}).

    `state` is what resume.pt held, or None; `clock()` the seconds that the run has taken so far, interrupted parts
    included; `begin()` is called before the first of what is trained, `advance(stage)` after each epoch. Of stages
    before the one whose weights the run starts with, nothing is known. `origin` says what those weights were.
    """

    def __init__(self, config, folder, state, data, clock, journal, begin, advance):
        self.config, self.folder, self.state, self.data = config, folder, state, data
        self.clock, self.journal, self.begin, self.advance = clock, journal, begin, advance
        self.accuracies = dict(state["accuracies"]) if state else {}
        self.metrics = list(state["metrics"]) if state else []
        self.teacher = None
        self.origin = state.get("origin") if state else None
        self.generator = torch.Generator().manual_seed(config.seed)

    def run(self):
        """Train what is to be trained."""
        config, state = self.config, self.state
        torch.manual_seed(config.seed)
        network = network_for(config, self.data).to(config.device)
        if config.channels_last:
            network = network.to(memory_format=torch.channels_last)
        self.sample = datasets.first(self.data, "train", 256, config.device)
        self.journal.begin(self.metrics)
        if config.start and not self.origin:
            self.origin = distributed.everywhere(lambda: origin_of(config))
        start = self.origin["stage"] if self.origin else -1
        reached = learning.STAGES.index(state["stage"]) if state else 0
        for index in range(1 if config.until == "relu" else len(learning.STAGES)):
            network = self._enter(index, network, start, reached if state else start)
            if index == max(reached, start, 0):
                self.begin()
            if index >= max(reached, start):
                self._train(index, network, state if index == reached else None)
        return network, self.accuracies

    def best(self):
        """{"accuracy", "epoch"} of the best epoch of the last stage that was trained; None without one.

        Published code keeps that epoch; but it was chosen on the test images.
        """
        lines = [line for line in self.metrics if line["stage"] == self.metrics[-1]["stage"]]
        best = max(lines, key=lambda line: line["accuracy"], default=None)
        return best and {name: best[name] for name in ("accuracy", "epoch")}

    def _enter(self, index, network, start, known):
        """The network as a stage begins, with the weights of a file where the run starts with them.

        Thresholds up to stage `known` come with weights, and so do all weights of a run that is gone on with.
        """
        config, stage = self.config, learning.STAGES[index]
        first = 1.0 if index <= known else config.initial_threshold
        settings = (
            config.activation,
            config.stage1,
            config.levels,
            first,
            self.sample,
            form_of(config),
            config.derivative,
        )
        if config.distillation and stage == "stage 1":
            self.teacher = copy.deepcopy(network).eval()
            if self.state and self.state.get("teacher"):
                self.teacher.load_state_dict(self.state["teacher"])
        network = distributed.everywhere(partial(learning.enter, stage, network, *settings))
        if index == start and not self.state:
            distributed.everywhere(partial(load_weights, network, weights_to_start_with(config)))
        return network

    def _train(self, index, network, state):
        """The epochs of a stage, from where `state` was if it is given."""
        config, stage, epochs = self.config, learning.STAGES[index], self.config.epochs[index]
        lr = config.lr * config.fine_tuning if stage == "stage 2" else config.lr
        sgd = learning.optimiser(network, lr, config.optimiser, config.weight_decay, config.decay)
        scaler = torch.amp.GradScaler(config.device) if config.precision == "float16" else None
        done = self._go_on(state, network, sgd, scaler) if state else 0
        trained = compiled(network, config.device) if config.compile and epochs > done else network
        if distributed.launched() and epochs > done:
            trained = nn.parallel.DistributedDataParallel(trained)
        for epoch in range(done, epochs):
            line = self._epoch(index, epoch, trained, network, sgd, scaler, lr)
            self.metrics.append(line | {"thresholds": smallest(network)} if index else line)
            self._keep(stage, epoch, network, sgd, scaler)
            self.journal.epoch(self.metrics[-1], epochs)
            self.advance(stage)
        if not epochs:
            test = learning.tested(network, shown(config, self.data, "test", config.test_images))
            self.accuracies[stage] = test.top1
            self.journal.say(f"{stage}: no epochs; test Acc@1 {per_cent(test.top1)}")

    def _go_on(self, state, network, sgd, scaler):
        """Put everything where it was; the number of epochs behind it."""
        try:
            network.load_state_dict(state["network"])
            sgd.load_state_dict(state["sgd"])
            self.generator.set_state(state["generator"].cpu())
            if scaler:
                scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            where = self.folder / "resume.pt"
            raise InputError(f"{where} does not fit the network: delete {self.folder} and start again") from error
        return state["epoch"]

    def _epoch(self, index, epoch, trained, network, sgd, scaler, lr):
        """One epoch and its test: a line of metrics.jsonl."""
        config, data, stage = self.config, self.data, learning.STAGES[index]
        began, epochs = time.perf_counter(), config.epochs[index]
        seed = (config.seed * 1_009 + index * 100_003 + epoch * 10_007 + distributed.rank()) % 2**40
        torch.manual_seed(seed)  # for dropout; whoever resumes here draws the same
        rows = learning.order(len(data.train_y), config.batch, self.generator)
        rate = learning.cosine(lr, epoch, epochs, config.warmup)
        shares = [distributed.share(step) for step in rows]
        drawn = datasets.batches(data, "train", shares, config.device, config.augment, seed, config.workers)
        sizes = [len(step) for step in rows]
        teach = (self.teacher, config.distillation) if self.teacher is not None else None
        seen = learning.train_epoch(
            trained, sgd, laid_out(config, drawn), rate, sizes, config.precision, config.accumulate, scaler, teach,
            self.journal.watch(stage, epoch + 1, epochs, len(sizes)),
        )  # fmt: skip
        test = learning.tested(network, shown(config, data, "test", config.test_images))
        self.accuracies[stage] = test.top1
        return {
            "stage": stage, "epoch": epoch + 1, "lr": rate(0), "loss": seen.loss, "accuracy": test.top1,
            "accuracy5": test.top5, "test_loss": test.loss, "train_accuracy": seen.top1, "train_accuracy5": seen.top5,
            "seconds": round(time.perf_counter() - began, 3), "memory": memory(config.device),
        }  # fmt: skip

    def _keep(self, stage, epoch, network, sgd, scaler):
        """Save what is needed to go on after this epoch."""
        if distributed.rank():
            return
        now = {
            "stage": stage, "epoch": epoch + 1, "accuracies": self.accuracies, "metrics": self.metrics,
            "network": network.state_dict(), "activations": activations(network), "sgd": sgd.state_dict(),
            "generator": self.generator.get_state(), "threads": torch.get_num_threads(),
            "scaler": scaler.state_dict() if scaler else None, "seconds": self.clock(),
            "teacher": self.teacher.state_dict() if self.teacher is not None else None, "origin": self.origin,
        }  # fmt: skip
        with whole_file(self.folder / "resume.pt") as part:
            torch.save(now, part)
