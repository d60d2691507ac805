"""Train a network with one hidden layer on handwritten digits, in plain NumPy with fastce.

In a checkout: pip install . scikit-learn; python examples/digits.py
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastce


def train(loss, x, y, epochs=30, batch_size=32, rate=0.3):
    """Descend the gradient; after each epoch, yield the weights and the mean training loss."""
    rng = np.random.default_rng(0)
    w1 = rng.normal(0, (2 / 64) ** 0.5, (64, 128)).astype(np.float32)
    w2 = rng.normal(0, (2 / 128) ** 0.5, (128, 10)).astype(np.float32)
    for _ in range(epochs):
        losses = []
        for rows in np.array_split(rng.permutation(len(x)), len(x) // batch_size):
            hidden = np.maximum(x[rows] @ w1, 0)
            value, d_logits = loss.value_and_grad(hidden @ w2, y[rows])
            d_hidden = (d_logits @ w2.T) * (hidden > 0)
            w2 -= rate * (hidden.T @ d_logits)
            w1 -= rate * (x[rows].T @ d_hidden)
            losses.append(value)
        yield w1, w2, np.mean(losses)


images, digit = load_digits(return_X_y=True)
pixels = (images / 16).astype(np.float32)
x, x_test, y, y_test = train_test_split(pixels, digit, stratify=digit, random_state=0)

if __name__ == "__main__":
    *_, (w1, w2, mean) = train(fastce.SoftmaxCrossEntropy(), x, y)
    accuracy = np.mean((np.maximum(x_test @ w1, 0) @ w2).argmax(axis=1) == y_test)
    print(f"training loss {mean:.4f}, {accuracy:.2%} held-out accuracy")
