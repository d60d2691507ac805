"""JAX on the CPU: ``jit(value_and_grad)`` of the loss as optax users write it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bench.cells import LOSSES
from bench.problems import Problem
from bench.subjects import Run, subject

JAX = "JAX"


def _losses(problem: Problem) -> Any:
    """A function of (logits, target) that returns the loss of every sample."""
    cell = problem.cell
    gamma, alpha, smoothing, axis = cell.gamma, cell.alpha, cell.label_smoothing, cell.axis

    def cross_entropy(z: Any, y: Any) -> Any:
        if z.dtype.itemsize == 2:
            z = z.astype(jnp.float32)  # or the sums would be taken in 16 bits
        if cell.target == "probabilities":
            return -(y * jax.nn.log_softmax(z, axis)).sum(axis)
        if smoothing:
            log_p = jax.nn.log_softmax(z, axis)
            chosen = jnp.take_along_axis(log_p, jnp.expand_dims(y, axis), axis).squeeze(axis)
            return -(1 - smoothing) * chosen - smoothing * log_p.mean(axis)
        chosen = jnp.take_along_axis(z, jnp.expand_dims(y, axis), axis).squeeze(axis)
        return jax.nn.logsumexp(z, axis) - chosen

    def softmax_focal(z: Any, y: Any) -> Any:
        ce = cross_entropy(z, y)
        return (1 - jnp.exp(-ce)) ** gamma * ce

    def divergence(z: Any, t: Any) -> Any:
        log_p = jax.nn.log_softmax(t, axis)
        return (jnp.exp(log_p) * (log_p - jax.nn.log_softmax(z, axis))).sum(axis)

    def bce(z: Any, y: Any) -> Any:
        return -y * jax.nn.log_sigmoid(z) - (1 - y) * jax.nn.log_sigmoid(-z)

    def sigmoid_focal(z: Any, y: Any) -> Any:
        p = jax.nn.sigmoid(z)
        p_t = p * y + (1 - p) * (1 - y)
        losses = (1 - p_t) ** gamma * bce(z, y)
        return losses if alpha is None else losses * (alpha * y + (1 - alpha) * (1 - y))

    formulas = {
        "softmax_cross_entropy": cross_entropy,
        "softmax_focal_loss": softmax_focal,
        "softmax_kl_divergence": divergence,
        "bce_with_logits": bce,
        "sigmoid_focal_loss": sigmoid_focal,
    }
    return formulas[cell.operation]


def _arrays(problem: Problem) -> tuple[Any, Any]:
    jax.config.update("jax_enable_x64", problem.cell.dtype == "float64")
    y = problem.target
    return jnp.asarray(problem.logits), jnp.asarray(y.astype("int32") if y.dtype.kind == "i" else y)


def _run(function: Any, *arguments: Any) -> Run:
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


@subject(JAX, *LOSSES)
def loss(problem: Problem) -> Run:
    losses = _losses(problem)
    z, y = _arrays(problem)
    if not problem.cell.gradient:
        if problem.reduction == "none":
            return _run(losses, z, y)
        return _run(lambda z, y: losses(z, y).mean(), z, y)
    if problem.reduction == "mean":
        return _run(jax.value_and_grad(lambda z, y: losses(z, y).mean()), z, y)

    def total(z: Any, y: Any) -> Any:
        each = losses(z, y)
        return each.sum(), each

    def each_and_gradient(z: Any, y: Any) -> Any:
        (_, each), gradient = jax.value_and_grad(total, has_aux=True)(z, y)
        return each, gradient

    return _run(each_and_gradient, z, y)


@subject(JAX, "softmax", "log_softmax", "logsumexp")
def softmax(problem: Problem) -> Run:
    function, (z, _) = getattr(jax.nn, problem.cell.operation), _arrays(problem)
    return _run(lambda z: function(z, axis=-1), z)


@subject(JAX, "token_log_probs")
def token_log_probs(problem: Problem) -> Run:
    def function(z: Any, y: Any) -> Any:
        lse = jax.nn.logsumexp(z, -1)
        chosen = jnp.take_along_axis(z, y[:, None], -1)[:, 0]
        return chosen - lse, lse, z.argmax(-1)

    return _run(function, *_arrays(problem))
