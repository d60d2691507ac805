"""``python -m bench.objectives``: boosting objectives compared with hand-written and built-in ones.

Prints two tables in Markdown. The first has the time of one call of the objective, on raw scores in
the host's type and memory order, for fastce and for the same formula in NumPy. The second has the
time of one boosting round of the real host, with its built-in objective, with fastce and with
NumPy, as no host exposes its own gradient. Trees are small, so that the objective's share is large.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

import fastce
from bench.timing import Budget, least
from fastce.objectives import CatBoostObjective, LightGBMObjective, XGBoostObjective

GAMMA = 2.0
LOSSES = {
    "softmax cross-entropy": fastce.SoftmaxCrossEntropy(),
    "softmax focal": fastce.SoftmaxFocalLoss(gamma=GAMMA),
    "binary cross-entropy": fastce.BCEWithLogits(),
    "sigmoid focal": fastce.SigmoidFocalLoss(gamma=GAMMA, alpha=None),
}


# The same formulas in NumPy, written by hand ------------------------------------------------------


def softmax_cross_entropy(scores, labels, factor):
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    hess = np.maximum(factor * p * (1 - p), 1e-16)
    p[np.arange(len(p)), labels.astype(np.int64)] -= 1
    return p, hess


def softmax_focal(scores, labels, factor):
    at = (np.arange(len(scores)), labels.astype(np.int64))
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p_y = p[at]
    q, log_p = 1 - p_y, np.log(p_y)
    a = q**GAMMA * (GAMMA * p_y * log_p / q - 1)
    b = GAMMA * q ** (GAMMA - 1) * (log_p + 2 - (GAMMA - 1) * p_y * log_p / q)
    v = -p
    v[at] += 1
    grad = a[:, None] * v
    hess = factor * ((p_y * b)[:, None] * v * v - a[:, None] * p * (1 - p))
    return grad, np.maximum(hess, np.maximum(0.05 * np.abs(grad), 1e-16))


def binary_cross_entropy(scores, labels, factor):
    p = 1 / (1 + np.exp(-scores))
    return p - labels, np.maximum(p * (1 - p), 1e-16)


def sigmoid_focal(scores, labels, factor):
    p = 1 / (1 + np.exp(-scores))
    p_t, sign = np.where(labels == 1, p, 1 - p), np.where(labels == 1, -1, 1)
    q, log_p = 1 - p_t, np.log(p_t)
    grad = sign * q**GAMMA * (q - GAMMA * p_t * log_p)
    bracket = q * (1 + 2 * GAMMA + GAMMA * log_p) - GAMMA**2 * p_t * log_p
    hess = p_t * q**GAMMA * bracket
    return grad, np.maximum(hess, np.maximum(0.05 * np.abs(grad), 1e-16))


HAND_WRITTEN: dict[str, Callable[..., Any]] = {
    "softmax cross-entropy": softmax_cross_entropy,
    "softmax focal": softmax_focal,
    "binary cross-entropy": binary_cross_entropy,
    "sigmoid focal": sigmoid_focal,
}


def by_hand(name: str, factor: float) -> Callable[..., Any]:
    """An objective for XGBoost or LightGBM in NumPy."""
    return lambda scores, data: HAND_WRITTEN[name](scores, data.get_label(), factor)


class CatBoostByHand:
    """An objective for CatBoost in NumPy: derivatives of minus the loss."""

    no_jit = True

    def __init__(self, name: str) -> None:
        self.name = name

    def calc_ders_range(self, approxes, targets, weights):
        grad, hess = HAND_WRITTEN[self.name](np.asarray(approxes), np.asarray(targets), 1)
        return -np.stack([grad, hess], axis=-1)

    def calc_ders_multi(self, approxes, target, weight):
        y = int(target)
        p = np.exp(np.asarray(approxes) - np.max(approxes))
        p /= p.sum()
        v = -p
        v[y] += 1
        a, matrix = -1.0, np.diag(p) - np.outer(p, p)
        if self.name == "softmax focal":
            q, log_p = 1 - p[y], np.log(p[y])
            a = q**GAMMA * (GAMMA * p[y] * log_p / q - 1)
            b = GAMMA * q ** (GAMMA - 1) * (log_p + 2 - (GAMMA - 1) * p[y] * log_p / q)
            matrix = max(p[y] * b, 0) * np.outer(v, v) - a * matrix
        return -a * v, -matrix


# One call -----------------------------------------------------------------------------------------


def calls(rows: int, classes: int) -> None:
    print(f"One call, {rows} rows; nanoseconds of processor time per element\n")
    print("| loss | classes | as | fastce | NumPy | ratio | largest difference |")
    print("|---|---:|---|---:|---:|---:|---:|")
    rng = np.random.default_rng(0)
    for name, loss in LOSSES.items():
        several = name.startswith("softmax")
        shape = (rows, classes) if several else (rows,)
        scores = 2 * rng.normal(size=shape)
        labels = rng.integers(classes if several else 2, size=rows).astype(np.float32)
        of_xgboost, of_lightgbm = XGBoostObjective(loss), LightGBMObjective(loss)
        for host, objective, factor, given in (
            ("XGBoost", of_xgboost, 2, scores.astype(np.float32)),
            ("LightGBM", of_lightgbm, classes / (classes - 1), np.asfortranarray(scores)),
        ):
            runs = {
                "fastce": partial(objective.derivatives, given, labels),
                "NumPy": partial(HAND_WRITTEN[name], given, labels, factor),
            }
            pairs = zip(runs["fastce"](), runs["NumPy"](), strict=True)
            difference = max(float(np.abs(a - b).max()) for a, b in pairs)
            seconds = least(runs, Budget(0, 9), time.process_time)
            ours, theirs = (1e9 * seconds[key] / given.size for key in ("fastce", "NumPy"))
            order = "class-major" if several and host == "LightGBM" else "by rows"
            kind = f"{host}, {given.dtype}, {order}"
            print(
                f"| {name} | {classes if several else 2} | {kind} | {ours:.2f} | {theirs:.2f} "
                f"| {theirs / ours:.1f} | {difference:.0e} |",
                flush=True,
            )


# One round of the host ----------------------------------------------------------------------------

# Each of these returns ``train(objective, rounds)``. For two classes, `classes` is None.
Train = Callable[[Any, int], Any]


def xgboost_trainer(features: Any, labels: Any, classes: int | None, threads: int) -> Train:
    import xgboost

    data = xgboost.QuantileDMatrix(features, labels, nthread=threads)
    settings = {"max_depth": 2, "nthread": threads, "disable_default_eval_metric": True}
    settings |= {"num_class": classes} if classes else {}

    def train(objective: Any, count: int) -> Any:
        if isinstance(objective, str):
            return xgboost.train(settings | {"objective": objective}, data, count)
        return xgboost.train(settings, data, count, obj=objective)

    return train


def lightgbm_trainer(features: Any, labels: Any, classes: int | None, threads: int) -> Train:
    import lightgbm

    data = lightgbm.Dataset(features, labels, params={"verbose": -1}).construct()
    settings = {"num_leaves": 4, "num_threads": threads, "verbose": -1, "metric": "None"}
    settings |= {"num_class": classes} if classes else {}
    return lambda objective, count: lightgbm.train(settings | {"objective": objective}, data, count)


def catboost_trainer(features: Any, labels: Any, classes: int | None, threads: int) -> Train:
    import catboost

    data = catboost.Pool(features, labels)
    data.quantize()
    settings = {
        "depth": 2,
        "thread_count": threads,
        "eval_metric": "MultiClass" if classes else "Logloss",
        "metric_period": 1000,
        "leaf_estimation_method": "Newton",
        "leaf_estimation_iterations": 1,
        "boost_from_average": False,
        "bootstrap_type": "No",
        "allow_writing_files": False,
        "verbose": False,
    }

    def train(objective: Any, count: int) -> Any:
        own = {"loss_function": objective, "iterations": count}
        if classes and not isinstance(objective, str):
            own["classes_count"] = classes
        return catboost.CatBoost(settings | own).fit(data)

    return train


# For each host: its trainer, fastce's objective for it, and its built-in objectives for softmax and
# for binary cross-entropy.
HOSTS = {
    "XGBoost": (xgboost_trainer, XGBoostObjective, "multi:softprob", "binary:logistic"),
    "LightGBM": (lightgbm_trainer, LightGBMObjective, "multiclass", "binary"),
    "CatBoost": (catboost_trainer, CatBoostObjective, "MultiClass", "Logloss"),
}


def rounds(rows: int, classes: int, threads: int, count: int = 5) -> None:
    print("\nOne boosting round, 3 features, trees of 4 leaves; milliseconds of processor time\n")
    print("| host | loss | rows | built in | fastce | NumPy |")
    print("|---|---|---:|---:|---:|---:|")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, 3))
    in_numpy = {
        "XGBoost": lambda name: by_hand(name, 2),
        "LightGBM": lambda name: by_hand(name, classes / (classes - 1)),
        "CatBoost": CatBoostByHand,
    }
    for host, (trainer, objective, softmax, binary) in HOSTS.items():
        if find_spec(host.lower()) is None:
            print(f"| {host} | not installed | | | | |")
            continue
        built_in = {"softmax cross-entropy": softmax, "binary cross-entropy": binary}
        for name, loss in LOSSES.items():
            several = name.startswith("softmax")
            # For several classes, CatBoost passes one row at a time: fewer rows are enough.
            used = rows // 100 if several and host == "CatBoost" else rows
            labels = rng.integers(classes if several else 2, size=used)
            train = trainer(features[:used], labels, classes if several else None, threads)
            objectives = {"fastce": objective(loss), "NumPy": in_numpy[host](name)}
            if name in built_in:
                objectives["built in"] = built_in[name]
            runs = {key: partial(train, each, count) for key, each in objectives.items()}
            best = least(runs, Budget(0, 3), time.process_time)
            cells = (
                f"{1e3 * best[key] / count:.1f}" if key in best else "none"
                for key in ("built in", "fastce", "NumPy")
            )
            print(f"| {host} | {name} | {used} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.objectives", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    fastce.set_num_threads(arguments.threads)
    calls(arguments.rows, arguments.classes)
    rounds(arguments.rows, arguments.classes, arguments.threads)


if __name__ == "__main__":
    main()
