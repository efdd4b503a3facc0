# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11. From coarse to fine, in integers
#
# **You will** code numbers with spikes that are worth 8, 4, 2 and 1, by hand and then in a network, compare how soon
# and with how many spikes each schedule has the answer, and put the network into whole numbers.
#
# **You will learn** why the first spikes may be a guess, why the answer is exact all the same, how a network that
# streamed for a while becomes exact with a few steps more, and why whole numbers are exact in any order.
#
# **You need** tutorial 6.

# %%
from itertools import permutations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import reference
from reference import training
from reference.integers import integer_level, integer_step

# %% [markdown]
# ## A number in four spikes
#
# A signed neuron (tutorial 6) walks to its level one step at a time: level 5 takes five steps and five spikes. Let the
# first spikes be worth more. In step $t$ a spike, of either sign, is worth $w_t$ levels, and the worths **halve**:
# $L, L/2, \ldots, 1$, and 1 from then on. With $u$ the input in levels and $N$ what was sent so far, also in levels, the
# neuron sends $+1$ if $u - N \ge w / 2$, $-1$ if $u - N < -w / 2$, and nothing otherwise: it fires when what is missing
# is at least *half of what a spike is worth now*. A spike that would leave $0, \ldots, L$ is not sent.
#
# Take a pencil: $L = 8$ and $u = 5.3$, all of it there from the first step.
#
# | step | $w$ | $u - N$ before | half a worth | sent | $N$ after |
# |---|---|---|---|---|---|
# | 1 | 8 | 5.3 | 4 | $+8$ | 8 |
# | 2 | 4 | $-2.7$ | 2 | $-4$ | 4 |
# | 3 | 2 | 1.3 | 1 | $+2$ | 6 |
# | 4 | 1 | $-0.7$ | 0.5 | $-1$ | 5 |

# %%
L = 8
current = np.zeros((4, 1, 1))
current[0] = 5.3
spikes, sent = reference.halving_run(current, float(L), L)  # theta = L: the input is in levels
print("spikes", spikes.ravel().astype(int), "worth 8, 4, 2, 1: sent", int(sent.item()), "levels")
assert spikes.ravel().tolist() == [1, -1, 1, -1]
assert sent == reference.qcfs_level(np.array([[5.3]]), float(L), L)

# %% [markdown]
# That this is right for *every* input is (14.3) of the [derivations](../derivations.md): after a step of worth $w$ at
# most $w / 2$ is missing, and after $w = 1$ at most half a level, so that $N$ is the level. Four steps, whatever the
# level. How many spikes?

# %%
u = np.linspace(-1, 9, 2001)
held = np.zeros((4, 1, len(u)))
held[0] = u
halving, n = reference.halving_run(held, float(L), L)
walking, m = reference.st_bif_run(np.concatenate([held, np.zeros_like(held)]), float(L), L)
level = reference.qcfs_level(u[None], float(L), L)
assert (n == level).all()
assert (m == level).all()
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
left.plot(u, n[0])
left.set(xlabel="input u, in levels", ylabel="levels sent in 4 steps")
right.plot(u, np.abs(walking).sum(axis=0)[0], label="signed: 8 steps")
right.plot(u, np.abs(halving).sum(axis=0)[0], label="halving: 4 steps")
right.set(xlabel="input u, in levels", ylabel="spikes")
right.legend()
plt.show()
print(f"mean over levels 0 to 8: signed {np.abs(walking).sum(0).mean():.2f} spikes, "
      f"halving {np.abs(halving).sum(0).mean():.2f}")  # fmt: skip
assert np.abs(halving).sum(0).mean() < np.abs(walking).sum(0).mean()

# %% [markdown]
# ## Why a network is exact all the same
#
# In a network the input of a layer changes while the layers before it still correct themselves, so the coarse steps code
# numbers that are not final. It does not matter. From *any* counts in $0, \ldots, L$, steps of worth 1 walk each layer
# to the level of its input, first the first layer, then the next (**T6**): there is only one state in which nothing
# fires, and that is the quantised network. The first steps may be spent on any guess; only the last ones must be fine.

# %%
L = 8
digits = load_digits()
x, labels = digits.images[:, None] / 16.0, digits.target
train_x, train_y, test_x, test_y = x[:1400], labels[:1400], x[1400:], labels[1400:]
random = np.random.default_rng(0)


def affine(name, source, inputs, outputs):
    weight = random.normal(size=(outputs, inputs)) * np.sqrt(2 / inputs)
    return {"name": name, "op": "linear", "inputs": [source], "weight": weight, "bias": np.zeros(outputs)}


nodes, source, width = [{"name": "flat", "op": "flatten", "inputs": ["image"]}], "flat", 64
for i in range(6):
    nodes += [affine(f"fc{i}", source, width, 32), {"name": f"act{i}", "op": "relu", "inputs": [f"fc{i}"]}]
    source, width = f"act{i}", 32
nodes.append(affine("logits", source, width, 10))
network, _ = training.train(reference.build(nodes), train_x, train_y, epochs=12, lr=0.05)
network = reference.quantise(network, "cs-qcfs", L, "mse", train_x[:300])
network, _ = training.train(network, train_x, train_y, epochs=8, lr=0.02)


def accuracy(logits):
    return float((logits.argmax(axis=-1) == test_y).mean())


target = reference.answer(network, test_x)
runs = {name: reference.simulate(reference.convert(network, name), test_x) for name in ("signed", "halving")}
chosen = reference.choose_halving(network, train_x)
runs[f"halving {chosen.worths}, span {chosen.span}"] = reference.simulate(reference.convert(network, chosen), test_x)
runs["streaming"] = reference.simulate(reference.convert(network, "streaming"), test_x, 24)
for name, s in runs.items():
    when = f"settled after {s.settled_at.mean():.1f} steps (slowest {s.latency})" if s.settled else "not exact"
    print(f"{name:>28}: {when}, {s.spikes_per_neuron:.2f} spikes per neuron; "
          f"accuracy after 1, 2, 4, 8 steps: " + ", ".join(f"{100 * accuracy(s.logits[t]):.1f}" for t in (0, 1, 3, 7)))  # fmt: skip
    if s.settled:
        assert (s.logits[-1] == target).all(), "every bit of every logit"
        assert min(s.nonzero_share.values()) > 0.05
assert runs["halving"].settled_at.mean() < runs["signed"].settled_at.mean()
assert runs["halving"].spikes_per_neuron < runs["signed"].spikes_per_neuron

# %%
fig, ax = plt.subplots(figsize=(8, 3.5))
for name, s in runs.items():
    ax.plot(range(1, 25), [accuracy(logits) for logits in s.logits[:24]], label=name)
ax.axhline(accuracy(target), color="grey", linestyle=":", label="quantised network")
ax.set(xlabel="steps from image to answer", ylabel="accuracy")
ax.legend()
plt.show()

# %% [markdown]
# The *span* lets deeper layers keep their coarse worth for longer, while their inputs are still coarse: a guess that is
# rough but whole beats one that is fine and wrong.
#
# ## Go on from a streaming network
#
# A network that has streamed for $T = L$ steps has sent whole counts in $0, \ldots, L$, too. So it may go on as a signed
# network, and becomes exact: no step was lost.

# %%
published = reference.simulate(reference.convert(network, "streaming"), test_x, L)
after = reference.simulate(reference.convert(network, "signed"), test_x, start=published)
print(f"streaming, T = {L}: {100 * accuracy(published.logits[-1]):.1f} %, "
      f"{100 * published.units_that_differ:.1f} % of units differ; {after.latency - L} steps later: "
      f"{100 * accuracy(after.logits[-1]):.1f} %, {100 * after.units_that_differ:.1f} %")  # fmt: skip
assert (after.logits[-1] == target).all()
assert published.units_that_differ > 0

# %% [markdown]
# ## In integers
#
# So far a simulation carried *totals*: each step computed a layer again on all that it had been sent (tutorial 6, T5). A
# chip does not. It adds each spike's weight to a membrane when the spike comes, and that order is another one. In floats
# another order is another sum:

# %%
weights = np.array([0.31, -0.17, 0.4, 0.23, -0.05], np.float32)
sums = {float(np.add.accumulate(order)[-1]) for order in permutations(weights)}
print(f"the same five weights, added up in all orders: {sorted(sums)}")
assert len(sums) > 1

# %% [markdown]
# Whole numbers have one sum. Let a neuron have these weights, a threshold $\theta = 0.8$ and $L = 4$ levels, so that a level
# is worth $d = 0.2$, and let its inputs be spikes worth 0.5. Choose a *unit* $u$ and write everything as multiples of it:
# the weights $0.5 w / u$, rounded, and the level $d / u = D$, which must be whole. With weights of 4 bits (up to 7) the
# unit must be at least $0.5 \cdot 0.4 / 7 = 0.029$. So $D = \lfloor 0.2 / 0.029 \rfloor = 7$ and $u = 0.2 / 7$.
#
# | | $w$ | 0.31 | $-0.17$ | 0.40 | 0.23 | $-0.05$ |
# |---|---|---|---|---|---|---|
# | exact | $0.5 w / u$ | 5.4 | $-3.0$ | 7.0 | 4.0 | $-0.9$ |
# | rounded | | 5 | $-3$ | 7 | 4 | $-1$ |
#
# The neuron adds such numbers to its membrane and fires at *half of what a spike is worth now*: at $2 V \ge w D$.

# %%

q, D = np.array([5, -3, 7, 4, -1]), 7
assert (np.rint(0.5 * weights / (0.2 / D)) == q).all()
membrane, sent = np.array([0]), np.array([0])
for step, (z, worth) in enumerate([(q[0] + q[2], 4), (q[3], 2), (q[1] + q[4], 1), (0, 1)], 1):  # inputs fire in turn
    spike, membrane = integer_step(membrane, z, sent, D, 4, worth)
    sent = sent + worth * spike
    print(f"step {step}: +{z:3d}, a spike is worth {worth}: sent {worth * spike.item():+d}, V = {membrane.item():3d}")
assert sent == integer_level(q.sum(), D, 4) == (2 * q.sum() + D) // (2 * D)

# %% [markdown]
# A whole network: pixels are whole numbers already (here 0 to 16), weights have 8 bits, and each level is sent as its
# number. `largest_sums` says how large a sum can become, in any order; it must stay below what the format holds
# exactly. Then every way of computing gives the same bits: one image at a time, a batch, and *as hardware runs it*, spike
# by spike.

# %%
whole = reference.integers(network, train_x[:300], 8, most=16)
answer = reference.answer(whole, test_x)
print(f"accuracy {100 * accuracy(target):.1f} %, in whole numbers {100 * accuracy(answer):.1f} %; "
      f"sums below 2^{np.log2(max(reference.largest_sums(whole).values())):.1f}")  # fmt: skip


def single(nodes):
    return [{k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in node.items()} for node in nodes]


images = test_x.astype(np.float32)
for name, nodes in (("real", single(network)), ("whole", single(whole))):
    together = reference.answer(nodes, images)
    alone = np.concatenate([reference.answer(nodes, image[None]) for image in images])
    s = reference.simulate(reference.convert(nodes, chosen), images, arithmetic="increments")
    print(f"{name} weights: answers of one image at a time have other bits in {100 * (alone != together).mean():.0f} % of "
          f"the logits; spike by spike {100 * (s.logits[-1] == together).mean():.0f} % are equal "
          f"({100 * min(s.nonzero_share.values()):.0f} % of the least active layer spike)")  # fmt: skip
assert (alone == together).all()
assert (s.logits[-1] == together).all()
assert s.units_that_differ == 0

# %% [markdown]
# ## Questions
#
# 1. Code $u = 2.5$ and $u = 3.5$ with $L = 4$ by hand. Which spikes are sent at a tie, and why must $-w / 2$ itself be
#    silent when $w = 1$?
# 2. From $w = L / 2$ on, which input is not coded in one pass? Why does a network settle all the same?
# 3. A silent step proves that a signed network has settled. Find an input of one neuron for which a *coarse* silent step
#    proves nothing.
# 4. Write the neuron above with weights of 2 bits ($-1$, 0, 1). Which $D$ do you get, and what becomes of 0.05?
# 5. How many inputs with weights up to 127 and levels up to 8 may a neuron have before float32 could round?
