# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Simplify: from Hodgkin-Huxley to integrate-and-fire
#
# **You will** simulate the neuron of Hodgkin and Huxley, then simplify it step by step until a counter with a threshold is
# left.
#
# **You will learn** what a spike is, what the integrate-and-fire neuron keeps of it, and what it leaves out.
#
# **You need** NumPy and a first course in differential equations. You need not know anything about neurons.

# %%
import matplotlib.pyplot as plt
import numpy as np

from reference import if_run

# %% [markdown]
# ## A membrane is a capacitor that leaks
#
# There is a voltage $V$ between the inside and the outside of a nerve cell. A current $I$ that flows in charges the
# membrane. Channels let charge through: sodium channels let it *in* (so a spike rises), potassium channels *out* (so it
# falls), and a leak pulls the voltage back to rest. Each kind has a conductance $g$ and a voltage $E$ at which its
# current vanishes. Hodgkin and Huxley (1952) measured, on the giant axon of the squid, how the channels open and close:
#
# $$
# C \dot V = I - g_{Na} m^3 h (V - E_{Na}) - g_K n^4 (V - E_K) - g_L (V - E_L)
# $$
#
# $m$, $h$ and $n$ are the shares of gates that are open. As $V$ rises, $m$ and $n$ gates open, and $h$ gates close,
# more slowly. A sodium channel lets charge through when its three $m$ gates and its $h$ gate are all open, a potassium
# channel when its four $n$ gates are open; hence the powers. The constants in `ionic` below are the $g$ and $E$ of the
# channels. Closed gates open at a rate $\alpha$, open gates close at a rate $\beta$:
# $\dot x = \alpha_x(V) (1 - x) - \beta_x(V) x$. Units: mV, ms, µA/cm², mS/cm², and $C$ = 1 µF/cm².


# %%
def rates(v):
    """(alpha, beta) of n, m and h at voltage v in mV, per ms."""
    ramp = lambda x: np.where(np.abs(x) < 1e-9, 1.0, x / -np.expm1(-np.where(x == 0, 1, x)))  # x / (1 - e^-x)
    n = 0.1 * ramp((v + 55) / 10), 0.125 * np.exp(-(v + 65) / 80)
    m = ramp((v + 40) / 10), 4 * np.exp(-(v + 65) / 18)
    h = 0.07 * np.exp(-(v + 65) / 20), 1 / (1 + np.exp(-(v + 35) / 10))
    return n, m, h


def ionic(v, n, m, h):
    """The current that flows out through the channels, in µA/cm²."""
    return 120 * m**3 * h * (v - 50) + 36 * n**4 * (v + 77) + 0.3 * (v + 54.387)


def hodgkin_huxley(current, duration=400.0, dt=0.01, start=-65.0):
    """Voltages [steps, ...] of one neuron for each constant current, from rest at `start` mV; explicit Euler."""
    v = np.full(np.shape(current), start)
    gates = [a / (a + b) for a, b in rates(v)]  # where a (1 - x) = b x: at rest
    trace = np.empty((round(duration / dt), *v.shape))
    for k in range(len(trace)):
        v, gates = (
            v + dt * (current - ionic(v, *gates)),
            [x + dt * (a * (1 - x) - b * x) for x, (a, b) in zip(gates, rates(v), strict=True)],
        )
        trace[k] = v
    return trace


def spikes(trace):
    """Where the voltage crosses 0 mV upwards."""
    return (trace[:-1] < 0) & (trace[1:] >= 0)


# %%
currents = np.array([1.0, 4.0, 8.0])
trace = hodgkin_huxley(currents, 100.0)
time = np.arange(len(trace)) * 0.01

fig, axes = plt.subplots(3, 1, figsize=(8, 5), sharex=True, sharey=True)
for ax, current, v in zip(axes, currents, trace.T, strict=True):
    ax.plot(time, v)
    ax.set_ylabel("V in mV")
    ax.set_title(f"{current:g} µA/cm²", loc="right", fontsize=9)
axes[-1].set_xlabel("time in ms")
plt.show()

# %% [markdown]
# A weak current only raises the voltage. A stronger one makes the neuron fire *once*. A strong one makes it fire
# repeatedly, and after the first spike all spikes look the same: **the information is that a spike occurred, not how
# tall it was**.
#
# ## Where firing begins
#
# The weakest constant current that makes a neuron fire is its *rheobase*. Here there are two: one for a single spike,
# one for repeated firing. According to the literature, the second is about 6.3 µA/cm² (Rinzel and Miller 1980), where
# the neuron starts at once with about 50 spikes per second. The resting state stays stable up to 9.8 (Hassard 1978), so
# between the two values both rest and firing are possible. We check all three numbers.

# %%
currents = np.arange(5.0, 12.0, 0.125)
fired = spikes(hodgkin_huxley(currents))
late = fired[len(fired) // 2 :].sum(axis=0) / 0.2  # spikes per second in the second half of 400 ms

repeated, lowest = currents[late > 0][0], late[late > 0][0]
print(f"repeated firing from {repeated} µA/cm², at {lowest:.0f} spikes per second")
assert 6.0 < repeated < 6.5
assert 45 < lowest < 65


# %% [markdown]
# Near rest the four equations are nearly linear. A small disturbance decays if all eigenvalues of their matrix have a
# negative real part; if the real part of one is positive, the disturbance grows. So the largest real part shows where
# rest becomes unstable:


# %%
def slope_at_rest(v):
    """(current that holds the membrane at v, largest real part of the eigenvalues there)."""
    gates = [a / (a + b) for a, b in rates(np.array(v))]
    state = np.array([v, *gates])

    def motion(s):
        return np.array([-ionic(*s), *(a * (1 - x) - b * x for x, (a, b) in zip(s[1:], rates(s[0]), strict=True))])

    jacobian = np.stack([(motion(state + d) - motion(state - d)) / 2e-6 for d in 1e-6 * np.eye(4)], axis=1)
    return ionic(*state), np.linalg.eigvals(jacobian).real.max()


held = np.array([slope_at_rest(v) for v in np.arange(-64, -55, 0.01)])
unstable = held[held[:, 1] > 0][0, 0]
print(f"rest is stable up to {unstable:.2f} µA/cm²")
assert abs(unstable - 9.78) < 0.05

# %%
fig, ax = plt.subplots(figsize=(8, 3))
ax.plot(currents, late, "o-", markersize=3, label="fires repeatedly")
ax.axvline(unstable, color="grey", linestyle=":", label="rest becomes unstable")
ax.set_xlabel("current in µA/cm²")
ax.set_ylabel("spikes per second")
ax.legend()
plt.show()

# %% [markdown]
# (Counts over 200 ms are multiples of 5 spikes per second.) All these neurons started at the resting voltage without current, and
# the jump of the current disturbed them. Between 6.3 and 9.8, a neuron that starts at its new rest stays there:

# %%
gates_at = lambda v: [a / (a + b) for a, b in rates(np.array(v))]
v_rest = next(v for v in np.arange(-64, -55, 0.001) if ionic(v, *gates_at(v)) >= 8.0)
calm = hodgkin_huxley(np.array([8.0]), 200.0, start=v_rest)
print(
    f"8 µA/cm² from its own rest, {v_rest:.2f} mV: {spikes(calm).sum()} spikes in 200 ms; "
    f"from -65 mV: {fired[:20_000, currents == 8.0].sum()}"
)
assert spikes(calm).sum() == 0

# %% [markdown]
# ## First simplification: leaky integrate-and-fire
#
# If all spikes look the same, we need not simulate their shape. Keep the capacitor $C$ and one leak of conductance
# $g_L$, and measure $V$ from rest, so that rest is 0: $C \dot V = I - g_L V$. Dividing by $g_L$ gives the equation
# below, with the resistance $R = 1 / g_L$ and the time constant $\tau = C / g_L$, in which the membrane decays. When
# $V$ reaches a threshold $\theta$, record a spike and reset $V$ (the circuit is due to Lapicque 1907, the reset to
# Stein 1965):
#
# $$
# \tau \dot V = -V + R I, \qquad V \ge \theta: \text{ spike}, \; V \leftarrow 0 .
# $$
#
# This equation can be solved. Its rheobase is $\theta / R$, and above it the rate is
# $1 / (\tau \ln \frac{R I}{R I - \theta})$.

# %%
tau, resistance, theta, dt = 10.0, 1.0, 1.0, 0.001  # ms, -, -, ms
drive = np.array([0.5, 0.99, 1.01, 1.1, 1.5, 2.0, 3.0, 4.0])
v, count = np.zeros(len(drive)), np.zeros(len(drive))
duration = 400.0
for _ in range(round(duration / dt)):
    v = v + dt / tau * (resistance * drive - v)
    count += v >= theta
    v = np.where(v >= theta, 0.0, v)
simulated = 1000 * count / duration
with np.errstate(divide="ignore", invalid="ignore"):
    solved = np.where(drive > 1, 1000 / (tau * np.log(drive / (drive - 1))), 0)
for each in zip(drive, simulated, solved, strict=True):
    print("R I = {:4.2f}: {:6.1f} spikes per second, by the formula {:6.1f}".format(*each))
assert simulated[:2].max() == 0, "below the rheobase it never fires"
# a count over 400 ms is off by up to one spike, 2.5 per second
assert np.abs(simulated - solved).max() <= 2.5 + 1e-9

# %% [markdown]
# This neuron no longer has the shape of a spike, the pause after it (the squid's neuron cannot fire again while its $h$
# gates are closed), or the jump to 50 spikes per second. Its firing can start at any low rate, and each current has
# only one possible answer. It still has a threshold, a memory that fades, and a rate that grows with the current.
#
# ## Second simplification: no leak, and subtract the threshold
#
# Let the leak vanish: $g_L \to 0$. Then $R$ and $\tau$ grow without bound while $R / \tau = 1 / C$ stays constant, and
# $\dot V = I / C$ remains. Take one step per unit of time and call the input of a step $z_t$; the membrane is then a
# plain sum. And after a spike, *subtract* the threshold instead of setting the membrane to 0, so that the part above
# the threshold is not lost:
#
# $$
# V \leftarrow V + z_t, \qquad s_t = [V \ge \theta] \;(1 \text{ if so, else } 0), \qquad V \leftarrow V - \theta s_t .
# $$
#
# That is the IF neuron of this project, `reference.if_run` ([derivations](../derivations.md), 3.1). It takes currents
# with time first, [T, batch, neurons], and starts half way, at $V = \theta / 2$; tutorial 2 explains why. It loses no
# input: as long as $0 \le z \le \theta$, its spike count is its total input divided by the threshold, rounded.

# %%
z = np.linspace(-0.5, 1.5, 401)
steps = 16
spike_train, membrane = if_run(np.stack([z[None]] * steps), 1.0)
rate = spike_train.sum(axis=0)[0] / steps

hard, v = np.zeros_like(z), np.full_like(z, 0.5)
for _ in range(steps):
    v = v + z
    hard += v >= 1
    v = np.where(v >= 1, 0.0, v)  # loses the part above the threshold

fig, ax = plt.subplots(figsize=(8, 3.5))
ax.plot(z, np.clip(z, 0, 1), color="grey", linewidth=4, alpha=0.4, label="clip(z, 0, 1)")
ax.plot(z, rate, label="IF, subtracting the threshold")
ax.plot(z, hard / steps, label="IF, reset to 0")
ax.set_xlabel("current z, threshold 1")
ax.set_ylabel(f"spikes per step, {steps} steps")
ax.legend()
plt.show()

assert np.abs(rate - np.clip(z, 0, 1)).max() <= 0.5 / steps + 1e-12, "at most half a spike, with V(0) = 1/2"
assert np.abs(hard / steps - np.clip(z, 0, 1)).max() > 0.2

# %% [markdown]
# **The rate follows the input and is limited to between 0 and 1 spike per step: that is a rectifier with an upper
# limit.** A ReLU network is made of rectifiers. This is why an ordinary network can be converted to a spiking one at
# all. The rest of these tutorials is about the error of half a spike.
#
# ## Questions
#
# 1. The IF neuron adds, compares, subtracts. Which of these does the work of the sodium channels, which of the
#    potassium channels, and what has become of the leak?
# 2. Between 6.3 and 9.8 µA/cm² the squid's neuron may rest or fire, depending on what it did before. Why can the IF
#    neuron not?
# 3. Why does the neuron that is reset to 0 have the same rate for every $z$ between $\theta / 2$ and $\theta$?
