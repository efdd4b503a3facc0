# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Differentiate: a slope for a staircase
#
# **You will** derive the derivatives of QCFS, check them against a finite difference, and find the error in a printed
# formula.
#
# **You will learn** the straight-through estimator, the mask at the bounds, and how a threshold learns.
#
# **You need** tutorial 3, the chain rule, and the idea of a finite difference.

# %%
import matplotlib.pyplot as plt
import numpy as np

import reference

# %% [markdown]
# ## The true derivative is useless
#
# A staircase is flat almost everywhere: its derivative is 0, and nothing can be learnt from that. (At the edges it is
# infinite.)

# %%
theta, L = 1.0, 4
z = np.linspace(-0.4, 1.6, 801)
f = reference.qcfs(z, theta, L)
true = np.diff(f) == 0
print(f"flat on {100 * true.mean():.1f} % of the line")
assert true.mean() > 0.99

# %% [markdown]
# ## The straight-through estimator
#
# So one uses a *substitute*. Write $u = z L / \theta + \varphi$ and $\lfloor u \rfloor = u - r$, where $r \in [0, 1)$ is the
# fraction that is cut off. Hold $r$ fixed while you differentiate, as if the floor were not there: the *straight-through
# estimator*. Inside, where $0 \le u < L$, the function is then
#
# $$
# \tilde f(z, \theta) = \frac{\theta}{L} \Big( \frac{z L}{\theta} + \varphi - r \Big) = z + \frac{\theta (\varphi - r)}{L},
# \qquad \frac{\partial \tilde f}{\partial z} = 1, \qquad
# \frac{\partial \tilde f}{\partial \theta} = \frac{\varphi - r}{L} = \frac{f - z}{\theta} .
# $$
#
# Above ($u \ge L$), $f = \theta$, and the derivatives are 0 and 1. Below ($u < 0$), $f = 0$, and both are 0. That is
# all (derivations 2.4 and 2.5). The **mask** $0 \le u < L$ begins half a step below 0 and ends half a step below
# $\theta$, because of the shift. It is half open: a unit exactly at the top counts as saturated, and its threshold
# learns with slope 1.

# %%
by_z, by_theta = reference.qcfs_grad(z, theta, L)
fig, axes = plt.subplots(3, 1, figsize=(8, 6), sharex=True)
axes[0].plot(z, f)
axes[0].plot(z, np.clip(z, 0, theta), color="grey", linewidth=3, alpha=0.4)
axes[1].plot(z, by_z)
axes[2].plot(z, by_theta)
for ax, name in zip(axes, ("qcfs(z)", "d / dz", "d / d theta"), strict=True):
    ax.set_ylabel(name)
axes[2].set_xlabel("z")
plt.show()

# %% [markdown]
# ## Check it
#
# A finite difference of the staircase itself would give 0. We must take the finite difference of the surrogate
# $\tilde f$: compute $r$ once, then change $z$ or $\theta$ a little with $r$ held fixed.


# %%
def surrogate(z, theta, held, L, phi=0.5):
    """QCFS with the cut-off fraction and the region held at their values where we differentiate."""
    r, inside, above = held
    return np.where(inside, z + theta * (phi - r) / L, np.where(above, theta, 0))


def hold(z, theta, L, phi=0.5):
    u = z * L / theta + phi
    return u - np.floor(u), (u >= 0) & (u < L), u >= L


random = np.random.default_rng(0)
z, theta, h = random.uniform(-1, 2, 1000), 0.7, 1e-6
held = hold(z, theta, L)
numeric_z = (surrogate(z + h, theta, held, L) - surrogate(z - h, theta, held, L)) / (2 * h)
numeric_theta = (surrogate(z, theta + h, held, L) - surrogate(z, theta - h, held, L)) / (2 * h)
by_z, by_theta = reference.qcfs_grad(z, theta, L)
print("largest difference:", abs(by_z - numeric_z).max(), abs(by_theta - numeric_theta).max())
assert max(abs(by_z - numeric_z).max(), abs(by_theta - numeric_theta).max()) < 1e-8  # rounding / h is 1e-10

# %% [markdown]
# ## Keep the threshold positive
#
# A threshold below 0 has no meaning. So train another number, $\lambda$, and let $\theta = \mathrm{softplus}(\lambda)
# = \log(1 + e^\lambda)$, which is positive whatever $\lambda$ is. By the chain rule, inside,
#
# $$
# \frac{\partial f}{\partial \lambda} = \sigma(\lambda) \frac{f - z}{\theta},
# \qquad \sigma(\lambda) = \frac{1}{1 + e^{-\lambda}} = \mathrm{softplus}'(\lambda),
# $$
#
# and $\sigma(\lambda)$ where the unit is saturated.
#
# The thesis that this project follows (README, sources) prints this as Eq. 3-9: inside
# $(\sigma(\lambda) f - z e^\lambda) / \mathrm{softplus}(\lambda)$, and 1 where the unit is saturated. One of the two
# versions is wrong. The finite difference decides.

# %%
lam, z0 = 0.3, 0.5
softplus = lambda t: np.log1p(np.exp(t))
sigma = 1 / (1 + np.exp(-lam))
f0 = reference.qcfs(np.array([z0]), softplus(lam), L)[0]
printed = (sigma * f0 - z0 * np.exp(lam)) / softplus(lam)
derived = sigma * (f0 - z0) / softplus(lam)
held = hold(np.array([z0]), softplus(lam), L)
numeric = float((surrogate(z0, softplus(lam + h), held, L) - surrogate(z0, softplus(lam - h), held, L))[0] / (2 * h))
print(f"printed {printed:.4f}, derived {derived:.4f}, finite difference {numeric:.4f}")
assert abs(derived - numeric) < 1e-8 < 0.4 < abs(printed - numeric)

upstream = np.array([[1.0]])  # the derivative of a loss with respect to the output; 1 for the output itself
ours = reference.qcfs_parameter_grad(np.array([[z0]]), np.array([lam]), L, "softplus", upstream)
assert abs(ours[0] - numeric) < 1e-8

# %%
lams = np.linspace(-2, 3, 200)
fs = np.array([reference.qcfs(np.array([z0]), softplus(t), L)[0] for t in lams])
u = z0 * L / softplus(lams) + 0.5
sig = 1 / (1 + np.exp(-lams))
right = np.where(u >= L, sig, sig * (fs - z0) / softplus(lams))
wrong = np.where(u >= L, 1, (sig * fs - z0 * np.exp(lams)) / softplus(lams))
fig, ax = plt.subplots(figsize=(8, 3.2))
ax.plot(lams, right, label="derived")
ax.plot(lams, wrong, label="printed (Eq. 3-9)")
ax.set_xlabel("lambda")
ax.set_ylabel(f"d f / d lambda at z = {z0}")
ax.legend()
plt.show()
assert abs(wrong[lams > 0] - right[lams > 0]).max() > 0.5, (
    "the printed derivative has the wrong size, and grows with lambda"
)

# %% [markdown]
# On the left, where the threshold is below $z$ (or so little above it that still $u \ge L$), the unit is saturated, and
# the derivative is $\sigma(\lambda)$. Further right the unit is inside, and the derivative jumps wherever
# $\lfloor u \rfloor$ changes; between two jumps the level is constant.
#
# ## A threshold that learns
#
# Let one neuron replace a ReLU whose inputs are positive and mostly small. Minimise the squared error by gradient
# descent with the derivative above, and compare the result with a search over many thresholds.

# %%
samples = np.abs(random.normal(size=(4000, 1))) * 0.8
lam, path = np.array([2.0]), []
for _ in range(300):  # upstream: the derivative of the loss with respect to each output
    out = reference.qcfs(samples, softplus(lam), L)
    upstream = 2 * (out - np.maximum(samples, 0)) / len(samples)
    lam = lam - 1.0 * reference.qcfs_parameter_grad(samples, lam, L, "softplus", upstream)
    path.append(softplus(lam[0]))

grid = np.linspace(0.3, 3, 200)
loss = [np.mean((reference.qcfs(samples, t, L) - samples) ** 2) for t in grid]
at = [np.mean((reference.qcfs(samples, t, L) - samples) ** 2) for t in (path[0], path[-1])]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2))
axes[0].plot(path)
axes[0].set_xlabel("step")
axes[0].set_ylabel("threshold")
axes[1].plot(grid, loss)
axes[1].plot(path[-1], at[1], "o", label="learned")
axes[1].set_xlabel("threshold")
axes[1].set_ylabel("mean squared error")
axes[1].legend()
plt.show()
print(
    f"learned {path[-1]:.2f} with error {at[1]:.4f}; best on the grid {grid[np.argmin(loss)]:.2f} with {min(loss):.4f}"
)
assert at[1] < 1.1 * min(loss), "the substitute derivative comes close to the true minimum"

# %% [markdown]
# ## Questions
#
# 1. A unit sits exactly at $u = L$. What would its two derivatives be if the mask were $0 \le u \le L$? A threshold
#    from the maximum equals the largest activation $z$ of its layer: what is $u$ of that unit, and does it matter for
#    it where the mask ends?
# 2. Where in the third panel of the first plot is the derivative with respect to $\theta$ negative, and what does that mean?
# 3. One threshold serves many units: all of a layer, or (tutorial 7) all pixels of one channel of a convolution. Each
#    unit has its own derivative with respect to the threshold. How are these combined into one gradient, and why in
#    that way?
