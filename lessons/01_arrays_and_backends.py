r"""
What is an array, and what is a forward/backward pair?
======================================================

Everything in this library is made of two things. *Arrays* hold the numbers: pixels, words, weights.
*Pairs* of functions move them: a forward computes something, and a backward says how the result
would change if what went in were changed. This lesson takes both apart, down to the last digit.
"""

# %%
# Memory, and a way to walk through it
# ------------------------------------
#
# An array is a row of numbers in memory and a rule for finding them. The rule is the *strides*: how
# many bytes to go for one step along each axis. Six numbers of 8 bytes, as two rows of three:

import numpy as np

a = np.arange(6.0).reshape(2, 3)
print("a     ", a.tolist(), "strides", a.strides)
assert a.strides == (24, 8)

# %%
# A step down skips a row of 24 bytes, a step to the right one number of 8. Change the rule, and the
# same memory is another array. Such an array is a *view*: nothing was copied, and who writes into
# it writes into the original.

print("a.T   ", a.T.tolist(), "strides", a.T.strides)
print("column", a[:, ::2].tolist(), "strides", a[:, ::2].strides)
assert a.T.strides == (8, 24) and np.shares_memory(a, a.T)
assert a[:, ::2].strides == (24, 16)
a.T[0, 1] = 30
assert a[1, 0] == 30

# %%
# A stride may even be 0: the same number again and again. That is what happens when a row is added
# to every row of a matrix (*broadcasting*). And an image becomes a grid of patches by strides
# alone. A real handwritten digit has 8 x 8 pixels of 4 bytes; in patches of 2 x 2,

from scratch_vlm.data.digits import load_digits

row = np.broadcast_to(np.arange(3.0), (1000, 3))
assert row.strides == (0, 8)

image = load_digits().images[0]
patches = image.reshape(4, 2, 4, 2).swapaxes(1, 2)  # grid row, grid column, row, column
print("image ", image.shape, image.strides, " patches", patches.shape, patches.strides)
assert image.strides == (32, 4) and patches.strides == (64, 8, 32, 4)
assert np.shares_memory(image, patches)
assert (patches[1, 3] == image[2:4, 6:8]).all()

# %%
# Where it lives
# --------------
#
# NumPy's arrays live in the memory of the computer. CuPy's live in that of a graphics card, which
# multiplies them much faster, and have the same methods. So one function can serve both, if it asks
# its argument where it lives. `scratch_vlm.backend.namespace` answers with the module, by custom
# called ``xp``:

from scratch_vlm.backend import cupy_problem, load, namespace, to_host


def softplus(x):
    xp = namespace(x)
    return xp.log1p(xp.exp(x))


problem = cupy_problem()
if problem:
    print(problem)
for xp in [np] if problem else [np, load("cupy")]:
    y = softplus(xp.asarray([0.0, 1.0, 2.0]))
    print(xp.__name__, type(y).__module__, to_host(y).round(4))
    assert np.allclose(to_host(y), [np.log(2), np.log(1 + np.e), np.log(1 + np.e**2)])

# %%
# A pair
# ------
#
# Let :math:`y = x^2`. If :math:`x` grows by a tiny :math:`dx`, then :math:`y` grows by
# :math:`2x\,dx`. At 3 the slope is 6. Now let there be a last number :math:`L`, the *loss*, that
# depends on :math:`y` in some way we do not know here. All that the rest of the world has to tell
# us is ``dy``, the slope of :math:`L` with respect to :math:`y`. Then the slope with respect to
# :math:`x` is ``2 * x * dy``. This is the chain rule, and it is all there is to it:


def square_forward(x):
    return x * x, x  # the result, and what the backward will need


def square_backward(dy, saved):
    return 2 * saved * dy


y, saved = square_forward(3.0)
print("y =", y, " slope =", square_backward(1.0, saved))
assert (y, square_backward(1.0, saved)) == (9, 6)

# %%
# Two pairs in a row make a pair: forward in order, backward in reverse, each handing its slope to
# the one before. From here to a vision language model there is no other idea.


def fourth_forward(x):
    y, first = square_forward(x)
    z, second = square_forward(y)
    return z, (first, second)


def fourth_backward(dz, saved):
    first, second = saved
    dy = square_backward(dz, second)
    return square_backward(dy, first)


z, saved = fourth_forward(3.0)
print("z =", z, " slope =", fourth_backward(1.0, saved))
assert (z, fourth_backward(1.0, saved)) == (81, 4 * 3**3)

# %%
# The slope, measured
# -------------------
#
# How would we know if a backward were wrong? Measure: move the input a little to both sides, and
# divide the difference of the results by the way,
#
# .. math:: f'(x) \approx \frac{f(x + h) - f(x - h)}{2h}
#
# A large step measures the curve instead of the slope. A small step subtracts two numbers that are
# almost equal, and what is left is rounding. There is a way out without subtraction. Step into the
# *imaginary* direction:
#
# .. math:: (x + ih)^2 = x^2 - h^2 + 2ihx
#
# The imaginary part, divided by :math:`h`, is :math:`2x`. For any function that has a Taylor series
# and takes complex numbers it is the slope up to :math:`h^2`, and nothing was subtracted, so that
# :math:`h` may be as small as one likes. Two measurements of the slope of the softplus at 1, and
# their errors:

x = 1.0
truth = 1 / (1 + np.exp(-x))
steps = 10.0 ** np.arange(-1, -17, -1)
apart = np.array([(softplus(np.array(x + h)) - softplus(np.array(x - h))) / (2 * h) for h in steps])
imaginary = np.array([softplus(np.array(x + 1j * h)).imag / h for h in steps])
errors = {
    "differences": abs(apart / truth - 1),
    "complex step": np.maximum(abs(imaginary / truth - 1), 1e-16),  # 0 has no logarithm
}
best = errors["differences"].min()
print(f"best error of differences {best:.0e}, of {16} digits they see {-np.log10(best):.0f}")
assert 0.6 < np.log10(best) / np.log10(1e-16) < 0.75
assert (errors["complex step"][8:] < 1e-15).all()

from scratch_vlm.viz.lines import lines
from scratch_vlm.viz.show import show

figure = lines(steps, errors, across="step h", up="relative error of the slope", log="xy")
show(figure, "01_arrays_and_backends")

# %%
# Differences never see more than about two thirds of the digits; a mistake in the last third stays
# hidden. The complex step sees all of them. `scratch_vlm.gradcheck.check` takes it for every input
# of a pair at once, along a random direction, and raises if the backward promised something else.
# Here is a backward that is wrong by three parts in a trillion, less than the best differences can
# tell:

from scratch_vlm.gradcheck import GradientError, check

x = np.random.default_rng(0).normal(size=5)
print(check(fourth_forward, fourth_backward, [x]))
mistake = 3e-12
try:
    check(square_forward, lambda dy, saved: 2 * saved * dy * (1 + mistake), [x])
    noticed = False
except GradientError:
    noticed = True
assert noticed and mistake < best

# %%
# Exercises
# ---------
#
# **1. Upside down.** Show an image upside down without copying it: give a view of it.


def check_upside_down(flip):
    flipped = flip(image)
    assert np.array_equal(flipped, np.array(image.tolist()[::-1])), "not upside down"
    assert np.shares_memory(flipped, image), "this is a copy"
    assert flipped.strides == (-32, 4), f"the strides are {flipped.strides}"


# %%
# **2. A pair of your own.** Give forward and backward of :math:`y = x e^x`.


def check_pair(forward, backward):
    assert np.isclose(forward(np.array(1.0))[0], np.e), "y is not x exp(x)"
    check(forward, backward, [x])


# %%
# **3. Where the complex step fails.** Find a function that is smooth on real numbers and whose
# slope the complex step gets wrong. (What in it does not survive an imaginary part?)


def check_blind(f):
    h = 1e-30
    apart = (f(np.array(1.0 + 1e-5)) - f(np.array(1.0 - 1e-5))) / 2e-5
    imaginary = f(np.array(1.0 + 1j * h)).imag / h
    assert np.isreal(apart) and abs(apart) > 1e-3, "measured by differences it has no slope"
    assert not np.isclose(apart, imaginary), f"both say {apart:.4f}"


# %%
# Sources
# -------
#
# * S. van der Walt, S. C. Colbert and G. Varoquaux, *The NumPy Array*, 2011, arXiv:1102.1523.
# * W. Squire and G. Trapp, *Using Complex Variables to Estimate Derivatives of Real Functions*,
#   SIAM Review 40 (1), 1998: the complex step.
# * D. Rumelhart, G. Hinton and R. Williams, *Learning Representations by Back-Propagating Errors*,
#   Nature 323, 1986.
