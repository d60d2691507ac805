"""Entropy, cross-entropy and their relatives, on probabilities.

The losses of this package take logits, which is faster and keeps more digits. These functions take
probabilities: use them to examine a distribution, to check a derivation, or with a model that
returns probabilities. They compute in float64, return nats (natural logarithm), and share three
conventions:

- 0·log 0 is 0: an outcome that never happens costs nothing.
- The result is +inf if an outcome that can happen has predicted probability 0.
- The result is float32 if all arrays are 16-bit or 32-bit floats, and float64 otherwise.

A distribution must be finite, nonnegative, and sum to 1 along ``axis`` within 1e-5 (0.05 for
float16 and bfloat16). A float32 softmax meets this tolerance, even after a cast to float64. Nothing
is renormalised.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.array_utils import normalize_axis_index

from fastce._call import checks, checks_information
from fastce._call.layout import Array

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "entropy",
    "kl_divergence",
    "negative_log_likelihood",
]


# log(p/q) = 2(s + s³/3 + s⁵/5 + …) with s = (p−q)/(p+q). For |s| ≤ 1/4 the terms left out are
# below the last digit of float64. Coefficients of s², from the highest power down to 1/5, 1/3.
NEAR = 0.25
ATANH_COEFFICIENTS = [1 / (2 * k + 1) for k in range(13, 0, -1)]


def sum_tolerance(*arrays: Array) -> float:
    """Return how far the sum of a distribution may be from 1; the least precise array decides."""
    return 0.05 if any(checks.is_float(a) and a.dtype.itemsize == 2 for a in arrays) else 1e-5


def result_dtype(*arrays: Array) -> type[np.floating[Any]]:
    return (
        np.float32
        if all(checks.is_float(a) and a.dtype.itemsize <= 4 for a in arrays)
        else np.float64
    )


def distributions(
    axis: int, **named: npt.ArrayLike
) -> tuple[int, type[np.floating[Any]], list[Array]]:
    """Return the axis, the result's dtype, and the checked distributions, broadcast, in float64."""
    arrays = {name: checks.real(name, values) for name, values in named.items()}
    values = checks_information.together(**arrays)
    axis = normalize_axis_index(checks.axis(axis), values[0].ndim)
    for (name, array), value in zip(arrays.items(), values, strict=True):
        checks_information.distribution(name, value, axis, sum_tolerance(array))
    return axis, result_dtype(*arrays.values()), values


def minus_x_log_y(x: Array, y: Array) -> Array:
    """Return −x·log y: 0 if x is 0, +inf if only y is 0."""
    return np.where(x == 0, 0.0, -x * np.log(y))


def total(terms: Array, axis: int) -> Any:
    """Return the sum along an axis, with the same rounding errors for any axis.

    NumPy adds pairwise only along a contiguous axis, and one after another along any other.
    """
    return np.ascontiguousarray(np.moveaxis(terms, axis, -1)).sum(axis=-1)


@np.errstate(all="ignore")
def entropy(p: npt.ArrayLike, *, axis: int = -1) -> Any:
    r"""Return the entropy of a distribution, in nats.

    .. math:: H(p) = −\sum_k p_k \log p_k

    This is the smallest expected length, in nats, of a code for outcomes from p. It lies between 0
    (one outcome is certain) and log K (all K outcomes are equally likely).

    Parameters
    ----------
    p : array_like of shape (..., K, ...)
        Probabilities, of any real dtype.
    axis : int, default -1
        The axis of the K outcomes.

    Returns
    -------
    numpy scalar or array
        H(p), with the shape of p without ``axis``.

    Raises
    ------
    TypeError
        If p is complex, object or a masked array.
    ValueError
        If p is not a distribution along ``axis``.

    References
    ----------
    Cover & Thomas, Elements of Information Theory, section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.information import entropy
    >>> print(entropy([0.5, 0.5]), np.log(2))
    0.6931471805599453 0.6931471805599453
    >>> print(entropy([[1.0, 0.0], [0.25, 0.75]]).round(4))
    [0.     0.5623]
    """
    axis, dtype, (p,) = distributions(axis, p=p)
    return total(minus_x_log_y(p, p), axis).astype(dtype)


@np.errstate(all="ignore")
def cross_entropy(p: npt.ArrayLike, q: npt.ArrayLike, *, axis: int = -1) -> Any:
    r"""Return the cross-entropy of q relative to p, in nats.

    .. math:: H(p, q) = −\sum_k p_k \log q_k

    This is the expected length, in nats, of a code made for q when outcomes come from p. It is
    smallest at q = p, where it equals the entropy of p. It is not symmetric.

    Parameters
    ----------
    p : array_like of shape (..., K, ...)
        The true probabilities, of any real dtype.
    q : array_like of shape (..., K, ...)
        The predicted probabilities; broadcasts with p.
    axis : int, default -1
        The axis of the K outcomes, in the broadcast shape.

    Returns
    -------
    numpy scalar or array
        H(p, q), with the broadcast shape without ``axis``; +inf if some q_k is 0 and p_k is not.

    Raises
    ------
    TypeError
        If p or q is complex, object or a masked array.
    ValueError
        If p or q is not a distribution along ``axis``, or the shapes do not broadcast.

    References
    ----------
    Goodfellow, Bengio & Courville, Deep Learning, section 3.13.

    Examples
    --------
    >>> from fastce.information import cross_entropy
    >>> p, q = [0.9, 0.1], [0.5, 0.5]
    >>> print(cross_entropy(p, q).round(4), cross_entropy(q, p).round(4))
    0.6931 1.204
    """
    axis, dtype, (p, q) = distributions(axis, p=p, q=q)
    return total(minus_x_log_y(p, q), axis).astype(dtype)


@np.errstate(all="ignore")
def kl_divergence(p: npt.ArrayLike, q: npt.ArrayLike, *, axis: int = -1) -> Any:
    r"""Return the Kullback-Leibler divergence of p from q, in nats.

    .. math:: \KL(p\,\|\,q) = \sum_k p_k \log(p_k / q_k) = H(p, q) − H(p)

    This is the cost, in nats, of using a code made for q when outcomes come from p. It is never
    negative, is 0 only if q = p, and is not symmetric.

    The sum is computed as :math:`\sum_k [p_k \log(p_k / q_k) − p_k + q_k]`. The two added sums
    cancel, and no term is negative, so the result keeps its digits when p and q are close.

    Parameters
    ----------
    p : array_like of shape (..., K, ...)
        The true probabilities, of any real dtype.
    q : array_like of shape (..., K, ...)
        The approximating probabilities; broadcasts with p.
    axis : int, default -1
        The axis of the K outcomes, in the broadcast shape.

    Returns
    -------
    numpy scalar or array
        KL(p‖q), with the broadcast shape without ``axis``; +inf if some q_k is 0 and p_k is not.

    Raises
    ------
    TypeError
        If p or q is complex, object or a masked array.
    ValueError
        If p or q is not a distribution along ``axis``, or the shapes do not broadcast.

    References
    ----------
    Cover & Thomas, Elements of Information Theory, section 2.3.

    Examples
    --------
    >>> from fastce.information import cross_entropy, entropy, kl_divergence
    >>> p, q = [0.9, 0.1], [0.5, 0.5]
    >>> print(kl_divergence(p, q).round(12), (cross_entropy(p, q) - entropy(p)).round(12))
    0.368064207168 0.368064207168
    """
    axis, dtype, (p, q) = distributions(axis, p=p, q=q)
    s = (p - q) / (p + q)
    near = (p + q) * s * s * (1 + (1 + s) * s * np.polyval(ATANH_COEFFICIENTS, s * s))
    ratio = p / q
    normal = (ratio >= np.finfo(float).tiny) & (ratio < np.inf)
    far = p * np.where(normal, np.log(ratio), np.log(p) - np.log(q)) - p + q
    terms = np.where(p == 0, q, np.where(abs(s) <= NEAR, near, far))
    return total(terms, axis).astype(dtype)


@np.errstate(all="ignore")
def binary_cross_entropy(y: npt.ArrayLike, p: npt.ArrayLike) -> Any:
    r"""Return the binary cross-entropy of each predicted probability, in nats.

    .. math:: ℓ = −y \log p − (1−y) \log(1−p)

    This is the negative log-likelihood of a Bernoulli variable y with P(y=1) = p. With soft y, it
    is the cross-entropy of (1−y, y) and (1−p, p).

    Parameters
    ----------
    y : array_like
        Targets in [0, 1], of any real dtype.
    p : array_like
        Predicted probabilities in [0, 1]; broadcasts with y.

    Returns
    -------
    numpy scalar or array
        One value per element, not reduced; +inf if p is 0 and y is not, or p is 1 and y is not.

    Raises
    ------
    TypeError
        If y or p is complex, object or a masked array.
    ValueError
        If y or p is outside [0, 1] or NaN, or the shapes do not broadcast.

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning, equation 4.90.

    Examples
    --------
    >>> from fastce.information import binary_cross_entropy
    >>> print(binary_cross_entropy([1, 1, 0], [0.9, 0.01, 0.0]).round(4))
    [0.1054 4.6052 0.    ]
    """
    y, p = checks.real("y", y), checks.real("p", p)
    dtype = result_dtype(y, p)
    y, p = checks_information.together(y=y, p=p)
    checks.unit_interval("y", y)
    checks.unit_interval("p", p)
    if_zero = np.where(y == 1, 0.0, (y - 1) * np.log1p(-p))
    # + 0.0 turns the −0.0 of a certain prediction into 0.0.
    return (minus_x_log_y(y, p) + if_zero + 0.0).astype(dtype)


@np.errstate(all="ignore")
def negative_log_likelihood(
    log_probs: npt.ArrayLike, target: npt.ArrayLike, *, axis: int = -1
) -> Any:
    """Return the negative log-probability of each target class, in nats.

    This is −log p_y, the cross-entropy of the one-hot distribution of the label and p. A common
    mistake is to pass logits or probabilities instead of log-probabilities, so exp(log_probs) is
    checked to be a distribution.

    Parameters
    ----------
    log_probs : array_like of shape (..., K, ...)
        Log-probabilities, which may be −inf; for example the result of ``fastce.log_softmax``.
    target : array_like of integers
        Class labels in [0, K), with the shape of ``log_probs`` without ``axis``.
    axis : int, default -1
        The axis of the K classes.

    Returns
    -------
    numpy scalar or array
        One value per sample, with the shape of the target, not reduced.

    Raises
    ------
    TypeError
        If ``log_probs`` is complex, object or a masked array, or the labels are not integers.
    ValueError
        If exp(log_probs) is not a distribution along ``axis``, or ``target`` has another shape.
    IndexError
        If a label is outside [0, K); the message names its position, its value and K.

    References
    ----------
    Murphy, Probabilistic Machine Learning: An Introduction, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.information import negative_log_likelihood
    >>> log_probs = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    >>> print(negative_log_likelihood(log_probs, [0, 2]).round(4))
    [0.3567 2.3026]
    """
    given = checks.real("log_probs", log_probs)
    values = given.astype(np.float64)
    axis = normalize_axis_index(checks.axis(axis), values.ndim)
    probs = np.exp(values)
    checks_information.distribution("exp(log_probs)", probs, axis, sum_tolerance(given))
    shape = values.shape[:axis] + values.shape[axis + 1 :]
    labels = checks_information.labels(target, shape, values.shape[axis])
    picked = np.take_along_axis(values, np.expand_dims(labels, axis), axis=axis)
    return (0.0 - picked.squeeze(axis)).astype(result_dtype(given))
