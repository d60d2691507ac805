"""Train on handwritten digits in Cython, with several learning rates in parallel threads.

In a checkout: pip install . Cython setuptools scikit-learn; cd examples/cython_trainer;
python setup.py build_ext --inplace; python train.py
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from softmax_regression import train

images, digit = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(
    (images / 16).astype(np.float32), digit.astype(np.int64), stratify=digit, random_state=0
)
rates = [0.03, 0.1, 0.3, 1.0]
with ThreadPoolExecutor() as pool:  # no run waits for another: none of them holds the GIL
    runs = list(pool.map(lambda rate: train(x, y, 10, epochs=40, rate=rate), rates))

for rate, (weights, loss) in zip(rates, runs, strict=True):
    accuracy = np.mean((x_test @ weights).argmax(axis=1) == y_test)
    print(f"rate {rate:4}: training loss {loss:.4f}, {accuracy:.2%} held-out accuracy")
