"""Train LightGBM on ten classes with its own objective, with fastce's, and with label smoothing.

With the plain loss, fastce gives the same trees as the built-in objective. A third of the training
labels are replaced by random ones. Label smoothing then improves the accuracy on clean labels, but
not the cross-entropy: smoothed predictions are less confident.

In a checkout: pip install ".[boosting]" scikit-learn; python examples/lightgbm_multiclass.py
"""

import lightgbm
import numpy as np
from sklearn.datasets import load_digits

import fastce
from fastce.objectives import LightGBMObjective

# If there were validation data, LightGBM's own metric would treat raw scores as probabilities.
SETTINGS = {"num_class": 10, "num_leaves": 7, "num_threads": 1, "verbose": -1, "metric": "None"}
ROUNDS, TRAINING = 60, 1200

pixels, digit = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(pixels))
train, test = order[:TRAINING], order[TRAINING:]
labels = digit[train].copy()
labels[::3] = np.random.default_rng(1).integers(10, size=len(labels[::3]))

# The built-in objective starts at the logarithms of the class frequencies; so does initial_score.
plain = LightGBMObjective(fastce.SoftmaxCrossEntropy())
smoothed = LightGBMObjective(fastce.SoftmaxCrossEntropy(label_smoothing=0.2))


def raw_scores(objective):
    """Train, and return the raw scores of the test digits."""
    if isinstance(objective, str):
        data = lightgbm.Dataset(pixels[train], labels)
        booster = lightgbm.train(SETTINGS | {"objective": objective}, data, ROUNDS)
        return booster.predict(pixels[test], raw_score=True)
    start = objective.initial_score(labels)
    data = lightgbm.Dataset(pixels[train], labels, init_score=np.tile(start, (TRAINING, 1)))
    booster = lightgbm.train(SETTINGS | {"objective": objective}, data, ROUNDS)
    return booster.predict(pixels[test]) + start


scores = {
    "multiclass, built in": raw_scores("multiclass"),
    "cross-entropy, fastce": raw_scores(plain),
    "smoothed, fastce": raw_scores(smoothed),
}
for name, values in scores.items():
    accuracy = (values.argmax(axis=1) == digit[test]).mean()
    loss = fastce.SoftmaxCrossEntropy()(values, digit[test])
    print(f"{name:22} accuracy {accuracy:.3f}   cross-entropy {loss:.4f}")
built_in, same, _ = scores.values()
difference = abs(built_in - same).max()
print(f"largest difference between the raw scores of the first two: {difference:.1e}")
