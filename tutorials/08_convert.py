# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. Convert: a spiking CNN with the fast backend
#
# **You will** run the whole pipeline with one command, read its report, change one thing, and then do the same in Python
# with a network of your own.
#
# **You will learn** which files a run writes, what every column of its table means, and which columns to look at first.
#
# **You need** tutorials 3, 6 and 7. From here on we use `accelerated`, which has the functions of `reference` under the same
# names, on PyTorch.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from accelerated import answer, convert, data, fold_batch_norms, quantise, simulate, summary

runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## One command
#
# `python -m accelerated.run` trains a residual network on digits: first with ReLU, then with QCFS (stage 1), then with a
# threshold per channel (stage 2). It converts the network under all three schedules and
# compares them. `--quick` trains for a few epochs only.


# %%
def run(*options):
    """Run the main job as in a terminal; returns its folder and its results."""
    command = [sys.executable, "-m", "accelerated.run", "--quick", "--out", str(runs), *options]
    subprocess.run(command, check=True, capture_output=True, text=True)
    newest = max(runs.glob("*/results.json"), key=lambda path: path.stat().st_mtime)
    return newest.parent, json.loads(newest.read_text())


folder, results = run("--name", "first")
print("a run writes:", ", ".join(sorted(path.name for path in folder.iterdir())))

# %% [markdown]
# ## Read the report
#
# The whole table is in `report.md`; the main columns are printed at the end of the run.
#
# - **T**: time steps of a simulation; **latency**: steps from the image to the answer, everything included. Compare
#   latencies.
# - **units that differ**: share of neurons whose spike count is not the quantised network's level (rounded: 0.00 % may
#   be a few). The aim is 0.
# - **spikes per neuron**: mean over images and neurons. **synaptic operations**: one for each spike and each weight
#   that it reaches. **energy**: the energy of these and of the first layer's multiplications (tutorial 10).
# - **logits equal**: whether *all bits* of all logits of all test images are those of the quantised network.
# - **least active layer**: if a layer hardly spikes, equality is trivial. Look here before you believe an equality.

# %%
print(f"{'schedule':>20}  T  accuracy  differ   latency  logits equal  least active layer")
for row in results["rows"]:
    differ = "" if row["units_that_differ"] is None else f"{100 * row['units_that_differ']:.2f} %"
    equal = {True: "all bits", False: "no", None: ""}[row["logits_equal"]]
    print(f"{row['schedule']:>20} {row['T']:>2}  {100 * row['accuracy']:6.2f} % {differ:>8} {row['latency'] or 'unsettled':>9} "
          f"{equal:>12} {100 * min(row['nonzero_share'].values()):10.1f} %")  # fmt: skip

exact = {row["schedule"] for row in results["rows"] if row["logits_equal"]}
assert exact == {"integrate-then-fire", "signed", "halving"}
for row in results["rows"]:
    if row["logits_equal"]:
        assert row["units_that_differ"] == 0
        assert min(row["nonzero_share"].values()) > 0.05

# %%
fig, axes = plt.subplots(1, 2, figsize=(12, 4))
for ax, picture in zip(axes, ("accuracy.png", "neuron.png"), strict=True):
    ax.imshow(plt.imread(folder / picture))
    ax.axis("off")
plt.show()

# %% [markdown]
# ## Change one thing
#
# With half as many levels, the exact answer comes in half the time, from a slightly coarser network.

# %%
_, coarse = run("--name", "coarse", "--levels", "4", "--schedules", "integrate-then-fire", "--times", "4")
fine = next(row for row in results["rows"] if row["schedule"] == "integrate-then-fire" and row["logits_equal"])
(half,) = coarse["rows"]
for name, row in (("L = 8", fine), ("L = 4", half)):
    print(
        f"{name}: {100 * row['accuracy']:.2f} % after {row['latency']} steps, {row['spikes_per_neuron']:.2f} spikes per neuron"
    )
assert half["logits_equal"]
assert half["latency"] == fine["latency"] / 2

# %% [markdown]
# ## A network of your own
#
# Any module with ReLUs will do: with a sample, `quantise` records what it does. Train it as usual; `quantise` returns an
# ordinary module.

# %%
torch.manual_seed(0)
digits = data.load("digits")
mine = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2),
    nn.Flatten(), nn.Linear(32 * 2 * 2, 10),
)  # fmt: skip


def fit(network, epochs, lr):
    sgd = torch.optim.SGD(network.train().parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.train_y)).split(32):
            sgd.zero_grad()
            nn.functional.cross_entropy(network(digits.train_x[rows]), digits.train_y[rows]).backward()
            sgd.step()
    return network.eval()


fit(mine, 4, 0.05)
quantised = quantise(mine, "cs-qcfs", levels=4, initial_threshold="max", sample=digits.train_x[:256])
print(summary(quantised))
folded = fold_batch_norms(fit(quantised, 4, 0.02))
target = answer(folded, digits.test_x)
print(f"quantised: {100 * (target.argmax(1) == digits.test_y).double().mean():.2f} %")

for schedule, steps in (("integrate-then-fire", 4), ("signed", 8)):
    s = simulate(convert(folded, schedule), digits.test_x, steps)
    print(f"{schedule}: equal in every bit {torch.equal(s.logits[-1], target)}, after {s.latency} steps, "
          f"least active layer {100 * min(s.nonzero_share.values()):.0f} % spiking")  # fmt: skip
    assert torch.equal(s.logits[-1], target)
    assert min(s.nonzero_share.values()) > 0.05

# %%
layers = list(s.nonzero_share)
fig, ax = plt.subplots(figsize=(8, 2.5))
ax.barh(range(len(layers)), [100 * s.nonzero_share[name] for name in layers])
ax.set_yticks(range(len(layers)), layers)
ax.axvline(5, color="tab:red", linestyle=":", label="below this, an equality says little")
ax.set_xlabel("% of a layer's neurons that spike")
ax.legend()
plt.show()

# %% [markdown]
# What cannot be converted is refused before training, and the error names it:


# %%
class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


try:
    quantise(nn.Sequential(nn.Conv2d(1, 4, 3), Noise(), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)), levels=4)
except ValueError as error:
    refused = str(error)
else:
    refused = ""
print(refused)
assert "random" in refused

# %% [markdown]
# ## Questions
#
# 1. Why is the column "logits equal" empty for streaming with $T \ne L$?
# 2. `signed` above ran 8 steps, and the bound of T3 is $1 + D (L - 1) = 7$. What does the eighth step show?
# 3. Run the command with `--arithmetic increments`. What is added, and why does T5 not guarantee equality for it
#    (end of derivations 6)? In float32 you will probably see no difference.
