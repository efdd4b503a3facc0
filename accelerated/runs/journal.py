"""The messages of a run in progress: lines of JSON in its folder and, without a terminal, lines of text."""

import json
import resource
import time

import torch

EVERY = 10.0  # seconds between two lines of text within one epoch, or one simulation


def memory(device):
    """The peak memory of this process in MiB; on a GPU, that of its tensors."""
    if str(device).startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB


def per_cent(share):
    """A share as text, in per cent."""
    return f"{100 * share:.2f} %"


class Journal:
    """Writes metrics.jsonl (a line for each epoch) and simulation.jsonl (one for each batch), and says both in words.

    Text goes to `console` unless it is a terminal, which shows bars. `speaks`: whether this process writes at all.
    `mirror(file, line, past)` sees each line, and how many epochs were over before.
    """

    def __init__(self, folder, console, device, speaks, mirror):
        self.folder, self.console, self.device, self.speaks, self.mirror = folder, console, device, speaks, mirror
        self.last, self.epochs = 0.0, 0

    def say(self, text):
        """A line of text with the time of day."""
        self.last = time.monotonic()
        if self.speaks and not self.console.is_terminal:
            self.console.print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}", highlight=False, markup=False,
                               soft_wrap=True)  # fmt: skip

    def begin(self, metrics):
        """Start with the epochs that an interrupted run has finished."""
        self.epochs = len(metrics)
        if self.speaks:
            (self.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
            (self.folder / "simulation.jsonl").write_text("")

    def _write(self, name, line):
        if self.speaks:
            with (self.folder / name).open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.mirror(name, line, self.epochs)

    def watch(self, stage, epoch, epochs, steps):
        """The callback after each step of an epoch: reports progress every `EVERY` seconds."""
        began = self.last = time.monotonic()

        def step(i, total, seen):
            now = time.monotonic()
            if now - self.last >= EVERY:
                left = (now - began) / (i + 1) * (steps - i - 1)
                self.say(f"{stage}: epoch {epoch} of {epochs}, step {i + 1} of {steps}, "
                         f"loss {float(total) / seen:.4f}, {left:.0f} s left in this epoch")  # fmt: skip

        return step

    def epoch(self, line, epochs):
        """The end of an epoch: its line of metrics.jsonl."""
        self._write("metrics.jsonl", line)
        self.epochs += 1
        self.say(
            f"{line['stage']}: epoch {line['epoch']} of {epochs}, lr {line['lr']:.4g}, loss {line['loss']:.4f}, "
            f"Acc@1 {per_cent(line['train_accuracy'])}, Acc@5 {per_cent(line['train_accuracy5'])}; test loss "
            f"{line['test_loss']:.4f}, Acc@1 {per_cent(line['accuracy'])}, Acc@5 {per_cent(line['accuracy5'])}; "
            f"{line['seconds']:.1f} s, memory {line['memory']:.0f} MiB"
        )

    def simulated(self, job, images, of, right, last):
        """A batch of the simulation: {T: how many of the first `images` are right}."""
        accuracy = {str(steps): hits / images for steps, hits in right.items()}
        ways = {"schedule": job.schedule, "arithmetic": job.arithmetic, "calibration": job.calibration}
        self._write("simulation.jsonl", ways | {"operators": job.operators, "images": images, "of": of,
                                                "accuracy": accuracy})  # fmt: skip
        if last or time.monotonic() - self.last >= EVERY:
            shares = ", ".join(f"T = {steps}: {per_cent(share)}" for steps, share in accuracy.items())
            self.say(f"{job.schedule}: {images} of {of} images; accuracy at {shares}")
