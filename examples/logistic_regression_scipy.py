"""Logistic regression with SciPy's optimiser, compared with scikit-learn's.

``scipy.optimize.minimize(jac=True)`` needs a function of the parameters that returns the value and
the gradient. That is one call of the loss, and one matrix product in each direction.

In a checkout: pip install . scipy scikit-learn; python examples/logistic_regression_scipy.py
"""

import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # comes with scikit-learn

import fastce

STRENGTH = 1.0  # of the penalty STRENGTH/2·Σ weights², which does not include the intercepts

# The products are small. If other programs use the processor too, several threads of BLAS wait for
# each other, and the run takes minutes instead of seconds.
threadpool_limits(1, user_api="blas")

pixels, digit = load_digits(return_X_y=True)
x = pixels / 16
rows, features = x.shape
classes = 10
cross_entropy = fastce.SoftmaxCrossEntropy(reduction="sum")


def unpack(parameters):
    return parameters.reshape(classes, features + 1)[:, :-1], parameters[features :: features + 1]


def value_and_grad(parameters):
    weights, intercepts = unpack(parameters)
    loss, grad = cross_entropy.value_and_grad(x @ weights.T + intercepts, digit)
    gradient = np.empty((classes, features + 1))
    np.matmul(grad.T, x, out=gradient[:, :-1])
    gradient[:, :-1] += STRENGTH * weights
    gradient[:, -1] = grad.sum(axis=0)
    return loss + STRENGTH / 2 * np.sum(weights**2), gradient.ravel()


start = np.zeros(classes * (features + 1))
found = minimize(
    value_and_grad,
    start,
    jac=True,
    method="L-BFGS-B",
    options={"maxiter": 2000, "ftol": 0, "gtol": 1e-8},
)
weights, intercepts = unpack(found.x)

model = LogisticRegression(C=1 / STRENGTH, tol=1e-9, max_iter=5000).fit(x, digit)
difference = np.abs(weights - model.coef_).max()
scores = x @ weights.T + intercepts
print(f"minimum {found.fun:.9f} after {found.nit} iterations: {found.message}")
print(f"largest coefficient {np.abs(weights).max():.4f}")
print(f"largest difference from scikit-learn's coefficients: {difference:.1e}")
print(f"same classes: {(scores.argmax(axis=1) == model.predict(x)).all()}")
assert difference < 1e-5
