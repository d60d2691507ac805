"""What the tests of the boosting objectives share: losses, and batches to call them with."""

from __future__ import annotations

import numpy as np

import fastce

CLASSES = 5
WEIGHT = np.array([0.5, 1.0, 2.0, 0.25, 1.5])
SOFTMAX = [
    fastce.SoftmaxCrossEntropy(),
    fastce.SoftmaxCrossEntropy(label_smoothing=0.2, weight=WEIGHT, logit_scale=0.5),
    fastce.SoftmaxFocalLoss(gamma=2.0),
    fastce.SoftmaxFocalLoss(gamma=0.5, alpha=WEIGHT),
    fastce.SoftmaxFocalLoss(gamma=5.0),
]
SIGMOID = [
    fastce.BCEWithLogits(),
    fastce.BCEWithLogits(pos_weight=3.0, label_smoothing=0.1),
    fastce.SigmoidFocalLoss(),
    fastce.SigmoidFocalLoss(gamma=0.5, alpha=None),
    fastce.SigmoidFocalLoss(gamma=5.0, alpha=0.9),
]


def samples(rng, classes, rows=1500):
    labels = rng.choice(classes, rows, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    centres = rng.normal(size=(classes, 6))
    features = centres[labels] + rng.normal(size=(rows, 6))
    return features, labels, rng.uniform(0.25, 4, rows)


def scores_and_labels(rng, rows=200, size=4.0):
    return size * rng.normal(size=(rows, CLASSES)), rng.integers(CLASSES, size=rows)
