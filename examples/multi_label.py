"""Several labels per sample, some of them unknown: BCE with a mask instead of a guess.

The tags of a handwritten digit: even, prime, closed loop, above five. An annotator has answered
three questions in ten; the rest are 255. Treating "not answered" as "no" teaches the model that
tags are rare. With `where`, an unknown tag does not count.

In a checkout: pip install . scikit-learn; python examples/multi_label.py
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastce

UNKNOWN = 255
TAGS = {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "closed loop": {0, 6, 8, 9},
    "above five": {6, 7, 8, 9},
}


def train(x, target, where=None, steps=400, rate=0.5, hidden_units=64):
    """Train a network with one hidden layer and one logit per tag; return a function of x."""
    rng = np.random.default_rng(0)
    w1 = rng.normal(0, (2 / 64) ** 0.5, (64, hidden_units)).astype(np.float32)
    w2 = np.zeros((hidden_units, target.shape[1]), np.float32)
    loss = fastce.BCEWithLogits()
    for _ in range(steps):
        hidden = np.maximum(x @ w1, 0)
        _, d_logits = loss.value_and_grad(hidden @ w2, target, where=where)
        d_hidden = (d_logits @ w2.T) * (hidden > 0)
        w2 -= rate * (hidden.T @ d_logits)
        w1 -= rate * (x.T @ d_hidden)
    return lambda x: np.maximum(x @ w1, 0) @ w2


if __name__ == "__main__":
    images, digit = load_digits(return_X_y=True)
    tags = np.array([[d in members for members in TAGS.values()] for d in digit], np.uint8)
    x, x_test, y, y_test = train_test_split(
        (images / 16).astype(np.float32), tags, stratify=digit, random_state=0
    )
    answered = np.random.default_rng(1).random(y.shape) < 0.3
    y[~answered] = UNKNOWN

    print(f"answered: {answered.mean():.0%} of {y.size} questions")
    models = {
        "unknown taken for no": train(x, np.where(answered, y, 0)),
        "unknown left out": train(x, y, where=y != UNKNOWN),
    }
    judge = fastce.BCEWithLogits()
    for name, model in models.items():
        logits = model(x_test)
        right = (logits > 0) == y_test
        said = (1 / (1 + np.exp(-logits))).mean()
        print(f"{name:21} tags right {right.mean():.1%}, all four {right.all(axis=1).mean():.1%}, "
              f"loss {judge(logits, y_test):.3f}; predicted share of yes {said:.2f}, "
              f"true share {y_test.mean():.2f}")
