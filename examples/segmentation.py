"""Label every pixel with the digit it belongs to: logits of shape (N, C, H, W), classes on axis 1.

Pictures of 40 x 40 pixels hold nine handwritten digits each. Pixels with little ink may or may not
belong to a digit: they have the label 255, which `ignore_index` leaves out. Most pixels are
background, so that class has a smaller weight.

In a checkout: pip install . scikit-learn; python examples/segmentation.py
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits

import fastce

BACKGROUND, VOID, CLASSES, SIZE, WINDOW = 10, 255, 11, 40, 15


def pictures(digits, labels, count, rng):
    """Return pictures (count, SIZE, SIZE), and the class of each of their pixels."""
    x = np.zeros((count, SIZE, SIZE), np.float32)
    y = np.full(x.shape, BACKGROUND, np.uint8)
    for n in range(count):
        for cell in range(9):
            which = rng.integers(len(digits))
            top, left = np.array(divmod(cell, 3)) * 13 + rng.integers(0, 6, size=2)
            part = n, slice(top, top + 8), slice(left, left + 8)
            ink = digits[which]
            x[part] = ink
            y[part] = np.where(ink > 0.4, labels[which], np.where(ink > 0, VOID, BACKGROUND))
    return x, y


def windows_of(x):
    """The pixels around each pixel, in rows: (N * H * W, WINDOW * WINDOW)."""
    margin = WINDOW // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    windows = sliding_window_view(padded, (WINDOW, WINDOW), axis=(1, 2))
    return windows.reshape(-1, WINDOW * WINDOW)


def forward(x, w1, w2):
    """Return the windows, the hidden units (H, N, h, w), and logits of shape (N, C, h, w)."""
    windows = windows_of(x)
    hidden = np.maximum(w1 @ windows.T, 0)
    logits = (w2 @ hidden).reshape(CLASSES, *x.shape)
    return windows, hidden, logits.swapaxes(0, 1)  # a view: planes of each class stay contiguous


def mean_iou(predicted, y):
    """Intersection over union, the mean over all classes; pixels of class VOID do not count."""
    counted, scores = y != VOID, []
    for label in range(CLASSES):
        a, b = (predicted == label) & counted, (y == label) & counted
        scores.append((a & b).sum() / (a | b).sum())
    return np.mean(scores)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8)
    x, y = pictures(images[:1200], labels[:1200], 96, rng)
    x_test, y_test = pictures(images[1200:], labels[1200:], 32, rng)
    w1 = rng.normal(0, (2 / WINDOW**2) ** 0.5, (96, WINDOW * WINDOW)).astype(np.float32)
    w2 = np.zeros((CLASSES, 96), np.float32)

    weight = np.ones(CLASSES)
    weight[BACKGROUND] = 0.2
    loss = fastce.SoftmaxCrossEntropy(axis=1, ignore_index=VOID, weight=weight)
    speed = [np.zeros_like(w1), np.zeros_like(w2)]
    for step in range(301):
        rows = rng.integers(len(x), size=4)
        windows, hidden, logits = forward(x[rows], w1, w2)
        value, grad = loss.value_and_grad(logits, y[rows])
        grad = grad.swapaxes(0, 1).reshape(CLASSES, -1)
        d_hidden = (w2.T @ grad) * (hidden > 0)
        for w, v, g in zip((w1, w2), speed, (d_hidden @ windows, grad @ hidden.T), strict=True):
            v *= 0.9
            v -= 0.5 * g
            w += v
        if step % 100 == 0:
            print(f"step {step:3d}: loss {value:.3f}")

    *_, logits = forward(x_test, w1, w2)
    predicted, counted = logits.argmax(axis=1), y_test != VOID
    print(f"logits {logits.shape}, target {y_test.shape} of {y_test.dtype}")
    background = (y_test == BACKGROUND).mean()
    print(f"void: {1 - counted.mean():.0%}, background: {background:.0%} of the pixels")
    print(f"held-out pixels: accuracy {(predicted == y_test)[counted].mean():.1%}, "
          f"mean intersection over union {mean_iou(predicted, y_test):.3f}")
