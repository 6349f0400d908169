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
print("a        ", a.tolist(), "strides", a.strides)
assert a.strides == (24, 8)

# %%
# A step down skips a row of 24 bytes, a step to the right one number of 8. Change the rule, and the
# same memory is another array. Such an array is a *view*: nothing was copied, and who writes into
# it writes into the original.

print("a.T      ", a.T.tolist(), "strides", a.T.strides)
print("a[:, ::2]", a[:, ::2].tolist(), "strides", a[:, ::2].strides)
assert a.T.strides == (8, 24) and np.shares_memory(a, a.T)
assert a[:, ::2].strides == (24, 16)
a.T[0, 1] = 30
assert a[1, 0] == 30

# %%
# A stride may even be 0: the same number again and again. That is how one row is added to every row
# of a matrix without a thousand copies of it (*broadcasting*):

row = np.broadcast_to(np.arange(3.0), (1000, 3))
assert row.strides == (0, 8)

# %%
# And strides alone cut an image into patches. A real handwritten digit, 8 x 8 pixels of 4 bytes,
# becomes a grid of 4 x 4 patches of 2 x 2 pixels: each axis is split into which patch and where in
# it, and not one pixel is moved.

from scratch_vlm.data.digits import load_digits

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
# its argument where it lives: `scratch_vlm.backend.namespace` answers with the module, by custom
# called ``xp``. Our example is the *softplus*, :math:`\ln(1 + e^x)`; without CuPy only NumPy shows
# it.

from scratch_vlm.backend import cupy_problem, load, namespace, to_host


def softplus(x):
    xp = namespace(x)
    return xp.log1p(xp.exp(x))  # log1p(a) is log(1 + a), exact also for a tiny a


problem = cupy_problem()
if problem:
    print(problem)
for xp in [np] if problem else [np, load("cupy")]:
    y = softplus(xp.asarray([0.0, 1.0, 2.0]))
    print(f"{xp.__name__}: {to_host(y).round(4)}")
    assert np.allclose(to_host(y), [np.log(2), np.log(1 + np.e), np.log(1 + np.e**2)])

# %%
# A pair
# ------
#
# Let :math:`y = x^2`. If :math:`x` grows by a tiny :math:`h`, then :math:`y` grows by :math:`2xh`:
# its slope is :math:`2x`, which is 6 where :math:`x = 3`. Now let there be a last number, the
# *loss* :math:`L`, that depends on :math:`y` in some way we do not know here. All that the rest of
# the world has to tell us is the slope of :math:`L` with respect to :math:`y`. Throughout this
# library it is called ``dy``, and the slope of :math:`L` with respect to :math:`x` is called
# ``dx``. By the chain rule one follows from the other:
#
# .. math:: dx = \frac{\partial L}{\partial x} = \frac{\partial L}{\partial y}
#    \frac{\partial y}{\partial x} = dy \cdot 2x
#
# If x and y are arrays, ``dx`` and ``dy`` have their shapes: one slope for each number.


def square_forward(x):
    return x * x, x  # the result, and what the backward will need


def square_backward(dy, saved):
    return 2 * saved * dy


y, saved = square_forward(3.0)
print("y =", y, " slope =", square_backward(1.0, saved))
assert (y, square_backward(1.0, saved)) == (9, 6)

# %%
# Two pairs in a row make a pair: forward in order, backward in reverse, each handing its slope to
# the one before. For :math:`(x^2)^2 = x^4` the slope must be :math:`4x^3`:


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
# Weights
# -------
#
# What a model learns are its *weights*. They come to a forward in a *tree* ``p``: a dictionary of
# arrays, or of further dictionaries. The backward leaves their slopes, the *gradients*, in a tree
# ``g`` of the same names. It *adds* them, with ``+=``, for a weight may be used more than once, and
# then the slopes of all its uses add up. With w = 2 used twice, 3 becomes 2 x 2 x 3 = 12. As
# :math:`z = w^2 x` the slope of w is :math:`2wx`, also 12, and that of x is :math:`w^2`, 4:


def scale_forward(x, p):
    return p["w"] * x, (x, p["w"])


def scale_backward(dy, saved, g):
    x, w = saved
    g["w"] += dy * x
    return w * dy


p, g = {"w": np.array(2.0)}, {"w": np.array(0.0)}
y, first = scale_forward(3.0, p)
z, second = scale_forward(y, p)
dx = scale_backward(scale_backward(1.0, second, g), first, g)
print("z =", z, " dw =", g["w"], " dx =", dx)
assert (z, g["w"], dx) == (12, 12, 4)

# %%
# From here to a vision language model there is no other idea.
#
# The slope, measured
# -------------------
#
# How would we know if a backward were wrong? Measure: move the input a little to both sides, and
# see how far the result moves,
#
# .. math:: f'(x) \approx \frac{f(x + h) - f(x - h)}{2h}
#
# A large step measures the curve instead of the slope. A small step subtracts two numbers that are
# almost equal, and what is left is rounding. There is a way out without subtraction: a step in the
# *imaginary* direction, with :math:`i^2 = -1`. Any function that has a Taylor series and takes
# complex numbers answers
#
# .. math:: f(x + ih) = f(x) + ih f'(x) - \frac{h^2}{2} f''(x) - \ldots, \qquad
#           \text{so for } x^2: \quad (x + ih)^2 = x^2 + ih\,2x - h^2
#
# The imaginary part, divided by :math:`h`, is the slope, up to an error of the order of
# :math:`h^2`. As nothing was subtracted, :math:`h` may be as small as one likes. Here are both, for
# the slope of the softplus at 1, which is :math:`1 / (1 + e^{-1})`:

x = 1.0
truth = 1 / (1 + np.exp(-x))
steps = 10.0 ** np.arange(-1, -17, -1)
differences = (softplus(x + steps) - softplus(x - steps)) / (2 * steps)
imaginary = softplus(x + 1j * steps).imag / steps
errors = {
    "differences": abs(differences / truth - 1),
    "complex step": np.maximum(abs(imaginary / truth - 1), 1e-16),  # 0 has no logarithm
}
best = errors["differences"].min()
print(f"differences are off by {best:.0e} at best: {-np.log10(best):.0f} of 16 digits are right")
assert 0.6 < -np.log10(best) / 16 < 0.75
assert (errors["complex step"][8:] < 1e-15).all()

from scratch_vlm.viz.lines import lines
from scratch_vlm.viz.show import show

figure = lines(steps, errors, across="step h", up="relative error of the slope", log="xy")
show(figure, "01_arrays_and_backends")

# %%
# From left to right the steps shrink, and both errors with them, until differences drown in
# rounding. They never see more than about two thirds of the digits, and a mistake in the last third
# stays hidden. The complex step sees them all.
#
# `scratch_vlm.gradcheck.check` uses it on whole pairs. It draws a random ``dy`` and a loss that has
# it for a slope, :math:`L = \sum_i dy_i\, y_i`. Then it moves all numbers of an input at once,
# along a random direction u. Their slopes add up, each times its own step:
#
# .. math:: \lim_{h \to 0} \frac{L(x + hu) - L(x)}{h} = \sum_j dx_j\, u_j
#
# The left side is measured (column *forward*), the right side is what the backward promises. One
# number thus judges a whole array: a wrong ``dx`` would pass only if its error stood at a right
# angle to u. Here is a backward that is wrong by three parts in a trillion, less than the best
# differences can tell, and ``check`` raises an error:

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
# Each ends with a function that tells you whether you succeeded: call it with your answer. Ours are
# in ``lessons/solutions``.
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
