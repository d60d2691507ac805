"""Cross-entropy of class labels, as loss and gradient per sample, with each installed library."""

import functools

import numpy as np
import scipy.special
from bench_results import look

import fastce


def by_fastce(logits, target):
    return fastce.SoftmaxCrossEntropy(reduction="none").value_and_grad(logits, target)


def by_numpy(logits, target):
    rows = np.arange(len(target))
    shifted = logits - logits.max(axis=1, keepdims=True)
    exps = np.exp(shifted)
    total = exps.sum(axis=1, keepdims=True)
    grad = exps / total
    grad[rows, target] -= 1
    return np.log(total[:, 0]) - shifted[rows, target], grad


def by_scipy(logits, target):
    rows = np.arange(len(target))
    loss = -scipy.special.log_softmax(logits, axis=1)[rows, target]
    grad = scipy.special.softmax(logits, axis=1)
    grad[rows, target] -= 1
    return loss, grad


def by_scikit_learn(logits, target):
    from sklearn._loss import HalfMultinomialLoss

    loss = HalfMultinomialLoss(n_classes=logits.shape[1])
    value, grad = loss.loss_gradient(y_true=target.astype(logits.dtype), raw_prediction=logits)
    return value, grad


def by_torch(logits, target):
    import torch

    z = torch.from_numpy(logits).requires_grad_()
    loss = torch.nn.functional.cross_entropy(z, torch.from_numpy(target), reduction="none")
    loss.sum().backward()
    return loss.detach().numpy(), z.grad.numpy()


def by_jax(logits, target):
    import jax

    def loss(z):
        log_p = jax.nn.log_softmax(z)
        return -jax.numpy.take_along_axis(log_p, target[:, None], axis=1)[:, 0]

    value, pull_back = jax.vjp(loss, logits)
    return np.asarray(value), np.asarray(pull_back(jax.numpy.ones_like(value))[0])


@functools.cache
def cross_entropy_peers():
    candidates = {
        "fastce": by_fastce,
        "NumPy": by_numpy,
        "SciPy": by_scipy,
        "scikit-learn": by_scikit_learn,
        "torch": by_torch,
        "JAX": by_jax,
    }
    return {name: peer for name, peer in candidates.items() if is_installed(peer)}


def is_installed(peer):
    try:
        peer(np.zeros((1, 2), np.float32), np.zeros(1, np.int64))
    except ImportError:
        return False
    return True


def line_of(name):
    """Return the style of a subject's line. All differ, because the lines often coincide."""
    color = look(name)["color"]
    if name == "fastce":
        return {"color": color, "linewidth": 2.6, "zorder": 3}
    position = list(cross_entropy_peers()).index(name)
    dashes = ["-", (0, (6, 2)), (0, (3, 1.5)), (0, (1, 1.2)), (0, (6, 2, 1, 2))]
    return {"color": color, "linewidth": 1.5, "linestyle": dashes[position - 1]}
