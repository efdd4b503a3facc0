# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. Price: what a spike costs
#
# **You will** count the operations of a spiking network, convert them into joules, compare them with the full latency,
# and stop early where the answer is clear.
#
# **You will learn** when spikes save energy, when they do not, and which numbers a table must show so that it does not
# mislead.
#
# **You need** tutorials 6, 7 and 8.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

from accelerated import answer, calibrate, convert, data, energy, fold_batch_norms, models, quantise, simulate
from accelerated.anytime import read_out_early

torch.manual_seed(0)
digits = data.load("digits")
network = models.make("cnn", (1, 8, 8), 10)


def fit(network, epochs, lr):
    sgd = torch.optim.SGD(network.train().parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.train_y)).split(32):
            sgd.zero_grad()
            nn.functional.cross_entropy(network(digits.train_x[rows]), digits.train_y[rows]).backward()
            sgd.step()
    return network.eval()


fit(network, 3, 0.05)
L = 4
quantised = fit(quantise(network, "cs-qcfs", L, "max", digits.train_x[:256]), 3, 0.02)
quantised = fold_batch_norms(quantised)
x, y = digits.test_x, digits.test_y


def accuracy(logits):
    return (logits.argmax(1) == y).double().mean().item()


print(f"quantised network: {100 * accuracy(answer(quantised, x)):.1f} %")

# %% [markdown]
# ## Two kinds of operation
#
# An ordinary layer multiplies and adds: one multiply-accumulate (**MAC**) for each weight and position. A spike is 0 or
# 1, so a spiking layer only adds: one accumulate (**AC**) for each spike and each weight that it reaches. On 45 nm
# silicon (Horowitz 2014, float32) a MAC takes 3.7 + 0.9 = 4.6 pJ and an AC 0.9 pJ. Memory traffic, which may well take
# more, is left out here, as nearly everywhere.
#
# So a layer saves energy if its inputs send fewer than $4.6 / 0.9 \approx 5$ spikes each. (After pooling over 4 pixels
# it must be fewer than a quarter of that: pooling does not spike, so the spikes of each of the 4 pixels count once for
# every weight after it.)

# %%
streaming = convert(quantised, "streaming")
s = simulate(streaming, x, L)
cost = energy(streaming, x, s)
print(f"{'layer':>14}  thousand MACs of the ANN  thousand ACs of the SNN")
for name, macs in cost.ann_macs.items():
    print(f"{name:>14}  {macs / 1e3:24.1f}  {cost.acs.get(name, 0) / 1e3:23.1f}")
print(
    f"ANN {1e6 * cost.ann_joules:.2f} µJ, SNN {1e6 * cost.joules:.2f} µJ per image, {s.spikes_per_neuron:.2f} spikes per neuron"
)
assert cost.joules < cost.ann_joules

# %% [markdown]
# The first layer reads the image, not spikes. It multiplies, but only once, since the image does not change.
#
# A spike costs as many additions as it has outgoing weights, counted through the pooling if there is any. Check one
# layer by hand: the number of spikes times the fan-out. For the read-out the fan-out is 10.

# %%
by_hand = {name: count.double().sum().item() / len(x) for name, count in s.counts.items()}
print({name: f"{spikes:.0f} spikes per image" for name, spikes in by_hand.items()})
assert abs(cost.acs["fc"] - 10 * by_hand["block2.relu2"]) < 1e-6  # a mean over images, summed in another order
total = sum(cost.acs.values()) * 0.9e-12 + sum(cost.macs.values()) * 4.6e-12
assert abs(total - cost.joules) < 1e-9 * total

# %% [markdown]
# ## A fair rival
#
# No chip for inference multiplies 32-bit floats. A layer that sends one of $L + 1$ levels says what
# $b = \lceil \log_2(L + 1) \rceil$ bits say, so the fair rival is the quantised network with 8-bit weights and $b$-bit
# activations: at 45 nm an 8-bit multiplication takes 0.2 pJ and a 32-bit addition 0.1 pJ. And both must read their
# weights from memory (1.25 pJ a byte, if it is small), the rival its activations too, and spiking neurons must keep a
# membrane from step to step (13.3).

# %%
print(f"rival: {cost.bits}-bit activations, {1e6 * cost.rival_joules:.3f} µJ, with memory "
      f"{1e6 * (cost.rival_joules + cost.rival_memory):.2f} µJ")  # fmt: skip
for name in ("streaming", "integrate-then-fire", "signed", "halving"):
    spiking = convert(quantised, name)
    result = simulate(spiking, x, None if spiking.schedule.settles else L)
    price = energy(spiking, x, result)
    share = price.whole_joules / price.rival_joules
    memory = (price.whole_joules + price.whole_memory) / (price.rival_joules + price.rival_memory)
    print(f"{name:>20}: {result.spikes_per_neuron:.2f} spikes per neuron, {result.latency:>2} steps: {100 * share:4.0f} % of "
          f"the rival's energy, with memory {100 * memory:4.0f} %; even at "
          f"{price.break_even * result.spikes_per_neuron:.2f} spikes per neuron")  # fmt: skip
assert cost.whole_joules / cost.rival_joules > cost.joules / cost.ann_joules, "the rival is stronger than floats"

# %% [markdown]
# Spikes still save additions, but much less than the first table says; and with memory, many steps cost more than they
# save, since each of them moves every membrane.
#
# ## Everything in one table
#
# Accuracy alone is only half of the truth, and so is "T". Latency counts every step from the image to the answer,
# including the pre-steps of a calibration and the phases of integrate-then-fire.

# %%
ways = [("streaming", "none", T) for T in (1, 2, 4, 8, 16)]
ways += [
    ("streaming", "cos", L),
    ("integrate-then-fire", "none", L),
    ("signed", "none", 2 + 5 * (L - 1)),
]  # D = 5: settled within 1 + D (L - 1) steps
rows = []
for schedule, calibration, T in ways:
    spiking = convert(quantised, schedule)
    if calibration != "none":
        spiking = calibrate(spiking, x, calibration, 4)
    result = simulate(spiking, x, T)
    cost = energy(spiking, x, result)
    name = schedule if calibration == "none" else "COS"
    rows.append((name, T, accuracy(result.logits[-1]), result.latency, 1e6 * cost.joules))
    exact = torch.equal(result.logits[-1], answer(quantised, x))
    print(f"{name:>20}, T = {T:>2}: {100 * rows[-1][2]:6.2f} %, latency {result.latency:>3}, {rows[-1][4]:5.2f} µJ"
          f"{', equal in every bit' if exact else ''}")  # fmt: skip
    assert exact == (schedule != "streaming")

fig, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True)
for name in dict.fromkeys(row[0] for row in rows):
    chosen = [row for row in rows if row[0] == name]
    axes[0].plot([r[3] for r in chosen], [r[2] for r in chosen], "o-", label=name)
    axes[1].plot([r[4] for r in chosen], [r[2] for r in chosen], "o-", label=name)
axes[1].axvline(1e6 * cost.ann_joules, color="grey", linestyle=":", label="ordinary network")
axes[0].set_xlabel("latency in steps, all counted")
axes[1].set_xlabel("energy per image in µJ")
axes[0].set_ylabel("accuracy")
axes[1].legend()
plt.show()

by_name = {row[0]: row for row in rows}
assert by_name["COS"][3] > by_name["signed"][3], "COS does not have a low latency, once its pre-steps count"

# %% [markdown]
# ## Stop when you are sure?
#
# A streaming network has an answer in every step. Why not read it out as soon as the softmax of the best class leads
# the second by a margin? We try it twice: from the first step on, and from the third step on.

# %%
long_run = simulate(convert(quantised, "streaming"), x, 16)
curves = {}
for first in (1, 3):
    curves[first] = []
    for margin in (0.3, 0.5, 0.7, 0.9, 0.97, 0.99):
        chosen, step = read_out_early(long_run.logits[first - 1 :], margin)
        mean = (step + first - 1).double().mean().item()
        curves[first].append((margin, mean, (chosen == y).double().mean().item()))
        print(
            f"from step {first}, margin {margin:4.2f}: {mean:5.2f} steps on average, {100 * curves[first][-1][2]:.1f} %"
        )

over_time = [accuracy(logits) for logits in long_run.logits]
fig, ax = plt.subplots(figsize=(8, 3.2))
for first, curve in curves.items():
    ax.plot([c[1] for c in curve], [c[2] for c in curve], "o-", label=f"read out at a margin, from step {first}")
ax.plot(range(1, 17), over_time, label="read out after T steps")
ax.set_xlabel("steps (mean)")
ax.set_ylabel("accuracy")
ax.legend()
plt.show()

early = next(c for c in curves[1] if c[1] > 4)  # needs more than four steps on average
assert over_time[3] > early[2], "four steps for every image are better than a margin from step 1"
patient = next(c for c in curves[3] if c[0] == 0.9)
assert patient[2] > early[2]

# %% [markdown]
# The idea is plausible, but from step 1 on it is worse than simply waiting four steps: the first logits are *confident
# and wrong*, because deep layers have hardly fired. A margin means something only after a few steps. Measure before you
# believe.

# %% [markdown]
# ## What this does not say
#
# - These are operation counts for *hardware that adds increments*. The exact schedules, as computed here, carry totals
#   so that every bit is right; a chip would use fixed-point increments, which are exact too.
# - Memory, leakage and idle time are not included. A chip that fetches weights from distant memory spends more on that
#   than on adding.
# - These are averages over images. The margin above changes the average, not the worst case.
#
# ## Questions
#
# 1. At how many spikes per neuron does this network stop saving energy? Find the $T$ at which streaming needs more than
#    the ANN.
# 2. Why does signed cost more than integrate-then-fire although it needs far fewer steps?
# 3. The margin and the first step were chosen on test images here. What would a correct experiment do?
