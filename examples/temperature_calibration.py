"""An over-confident network, and the temperature that calibrates its probabilities.

In a checkout: pip install ".[demo]"; python examples/temperature_calibration.py [PICTURE.png]

A network that starts from large weights memorises a hundred digits. On new digits its predictions
are right less often than they claim. One number, fitted on other samples, corrects that without
changing a prediction. With an argument, the reliability diagrams are drawn.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

import fastce
from fastce.evaluation import evaluate, fit_temperature

rng = np.random.default_rng(0)
images, labels = load_digits(return_X_y=True)
order = rng.permutation(len(labels))
images, labels = images[order].astype(np.float32) / 16, labels[order]
train, held_out, test = slice(100), slice(300, 800), slice(800, None)

# 1. A network without regularisation.
weights = [rng.normal(0, 0.5, (64, 256)), rng.normal(0, 0.5, (256, 10))]
cross_entropy = fastce.SoftmaxCrossEntropy()
for _ in range(1000):
    hidden = np.maximum(images[train] @ weights[0], 0)
    _, grad = cross_entropy.value_and_grad(hidden @ weights[1], labels[train])
    grad_hidden = (grad @ weights[1].T) * (hidden > 0)
    weights[1] -= 0.05 * hidden.T @ grad
    weights[0] -= 0.05 * images[train].T @ grad_hidden

# 2. One number, fitted on samples that the network has not seen.
logits = np.maximum(images @ weights[0], 0) @ weights[1]
temperature = fit_temperature(logits[held_out], labels[held_out])

# 3. What it changes on the rest.
before = evaluate(logits[test], labels[test])
after = evaluate(logits[test], labels[test], temperature=float(temperature))
print(f"temperature {float(temperature):.2f}")
for name, result in ("before", before), ("after", after):
    figures = f"accuracy {result.accuracy:.1%}, loss {result.loss:.3f}"
    print(f"{name}: {figures}, calibration error {result.calibration_error:.3f}")

if len(sys.argv) > 1:
    from fastce.plots import evaluation_curves

    axes = evaluation_curves({"before": before, "after": after})
    axes[0].get_figure().savefig(sys.argv[1])
