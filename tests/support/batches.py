"""Makers of logits, targets and arguments of a call, from which cases are put together."""

from __future__ import annotations

import numpy as np

# Logits -------------------------------------------------------------------------------------------


def on_grid(rng, shape):
    return np.round(rng.normal(scale=3, size=shape) * 32) / 32


def off_grid(rng, shape):
    return rng.normal(scale=3, size=shape)


def confident(rng, shape):
    """One class, or the sign of one element, leads by 10 to 60."""
    margins = np.round(rng.uniform(10, 60, size=shape) * 32) / 32
    if len(shape) == 1 or shape[-1] == 1:
        return margins * rng.choice([-1, 1], size=shape)
    first = rng.integers(shape[-1], size=(*shape[:-1], 1))
    return np.where(np.arange(shape[-1]) == first, 0, -margins)


def far_apart(rng, shape):
    """So far apart that most exponentials underflow in float32."""
    return np.round(rng.uniform(-200, 200, size=shape) * 4) / 4


def at_the_ends(rng, shape):
    """Near the ends of the ranges in which exponentials need no reference, in either precision."""
    return rng.choice([-100.5, -100.0, -99.75, -87.0, -86.5, 40.0, 87.0, 99.75, 100.0], size=shape)


def equal(rng, shape):
    return np.full(shape, 0.75)


def some_excluded(rng, shape):
    """The same classes are -inf in all rows."""
    return np.where(np.arange(shape[-1]) % 5 == 2, -np.inf, on_grid(rng, shape))


# Targets ------------------------------------------------------------------------------------------


def labels(rng, logits, axis):
    rows = np.delete(logits.shape, axis)
    return rng.integers(logits.shape[axis], size=tuple(rows))


def likeliest(rng, logits, axis):
    return np.argmax(logits, axis=axis)


def some_ignored(index):
    def make(rng, logits, axis):
        y = labels(rng, logits, axis)
        return np.where(rng.random(y.shape) < 0.3, index, y)

    return make


def all_ignored(rng, logits, axis):
    return np.full_like(labels(rng, logits, axis), -100)


def probabilities(rng, logits, axis):
    weights = rng.exponential(size=logits.shape)
    return weights / weights.sum(axis=axis, keepdims=True)


def sparse_probabilities(rng, logits, axis):
    weights = rng.exponential(size=logits.shape) * (rng.random(logits.shape) < 0.5)
    weights = weights + one_hot(labels(rng, logits, axis), logits, axis)
    return weights / weights.sum(axis=axis, keepdims=True)


def not_normalised(rng, logits, axis):
    return rng.exponential(size=logits.shape)


def one_hot(y, logits, axis):
    """The labels as probabilities."""
    classes = np.arange(logits.shape[axis])
    return np.moveaxis((y[..., None] == classes).astype(float), -1, axis)


def one_hot_labels(rng, logits, axis):
    return one_hot(labels(rng, logits, axis), logits, axis)


def one_hot_integers(rng, logits, axis):
    return one_hot_labels(rng, logits, axis).astype(np.int64)


def one_hot_booleans(rng, logits, axis):
    return one_hot_labels(rng, logits, axis).astype(bool)


def teacher(rng, logits, axis):
    """Independent logits on the grid."""
    return on_grid(rng, logits.shape)


def near(noise, offset=0.0):
    """The student's own logits, plus noise and an offset of all classes."""

    def make(rng, logits, axis):
        return logits + noise * rng.normal(size=logits.shape) + offset

    return make


def confident_teacher(rng, logits, axis):
    """One class leads by 10 to 60, in half of the rows the student's."""
    other = confident(rng, logits.shape)
    return np.where(rng.random((len(logits), 1)) < 0.5, other, logits - np.round(logits / 2))


def far_apart_teacher(rng, logits, axis):
    return far_apart(rng, logits.shape)


def excluding(rng, logits, axis):
    """Excludes the student's excluded classes, too."""
    return np.where(np.isneginf(logits), -np.inf, on_grid(rng, logits.shape))


def hard(rng, logits, axis):
    return rng.integers(2, size=logits.shape).astype(float)


def right(rng, logits, axis):
    return (logits > 0).astype(float)


def integers(rng, logits, axis):
    return rng.integers(2, size=logits.shape).astype(np.int8)


def booleans(rng, logits, axis):
    return rng.integers(2, size=logits.shape).astype(bool)


def soft(rng, logits, axis):
    """Exact in float32, so that 1 − y is the same in every precision."""
    y = rng.random(logits.shape).astype(np.float32).astype(float)
    return np.where(rng.random(logits.shape) < 0.2, np.round(y), y)


# Arguments of the call ----------------------------------------------------------------------------


def row_weight(rng, logits, target, axis):
    return rng.integers(4, size=tuple(np.delete(logits.shape, axis))) / 2


def element_weight(rng, logits, target, axis):
    return rng.integers(4, size=logits.shape) / 2


def signed_row_weight(rng, logits, target, axis):
    """Advantages, say; most are positive, so that their sum is."""
    return rng.integers(-1, 4, size=tuple(np.delete(logits.shape, axis))) / 2


def signed_element_weight(rng, logits, target, axis):
    return rng.integers(-1, 4, size=logits.shape) / 2


def weight_per_row(rng, logits, target, axis):
    """Broadcasts over all but the first axis of the logits."""
    return rng.integers(1, 4, size=(logits.shape[0],) + (1,) * (logits.ndim - 1)) / 2


def class_mask(rng, logits, target, axis):
    """Keeps the target, or all classes to which it gives mass."""
    mass = target if target.shape == logits.shape else one_hot(target, logits, axis)
    return (rng.random(logits.shape) < 0.6) | (mass > 0)


def some_classes(rng, logits, target, axis):
    """Keeps at least one class."""
    first = np.moveaxis(np.arange(logits.shape[axis]) + 0 * np.moveaxis(logits, axis, -1), -1, axis)
    return (rng.random(logits.shape) < 0.6) | (first == 0)


def element_mask(rng, logits, target, axis):
    return rng.random(logits.shape) < 0.7


def last_axis_mask(rng, logits, target, axis):
    return np.arange(logits.shape[-1]) % 3 != 1


def value(x):
    return lambda rng, logits, target, axis: x


def per_row(rng, logits, target, axis):
    return rng.normal(size=tuple(np.delete(logits.shape, axis)))


def per_element(rng, logits, target, axis):
    return rng.normal(size=logits.shape)
