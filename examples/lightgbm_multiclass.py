"""Train LightGBM on ten classes: the built-in objective, the same from fastce, and a variation.

With the plain loss, fastce gives the built-in objective's trees. With label smoothing, a third of
the training labels being wrong harms less. Run: pip install "fastce[boosting]" scikit-learn;
python lightgbm_multiclass.py
"""

import lightgbm
import numpy as np
from sklearn.datasets import load_digits

import fastce
from fastce.objectives import LightGBMObjective

# With data to stop early on, LightGBM's own metric would take raw scores for probabilities.
SETTINGS = {"num_class": 10, "num_leaves": 7, "num_threads": 1, "verbose": -1, "metric": "None"}
ROUNDS, TRAINING = 60, 1200

pixels, digit = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(pixels))
train, test = order[:TRAINING], order[TRAINING:]
labels = digit[train].copy()
labels[::3] = np.random.default_rng(1).integers(10, size=len(labels[::3]))

# The built-in objective starts at the logarithms of the classes' shares; fastce's helper, too.
plain = LightGBMObjective(fastce.SoftmaxCrossEntropy())
smoothed = LightGBMObjective(fastce.SoftmaxCrossEntropy(label_smoothing=0.2))


def raw_scores(objective):
    """Train, and return the raw scores of the new digits, and the number of Booster's trees."""
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
print(f"largest difference of raw scores of the first two: {abs(built_in - same).max():.1e}")
