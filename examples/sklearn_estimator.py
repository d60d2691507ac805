"""A scikit-learn classifier around any softmax loss, and a grid search over losses.

SciPy's L-BFGS minimises the loss and a penalty on the weights. The estimator passes scikit-learn's
common tests (`check_estimator`), so it works with pipelines, cross-validation and grid search.

In a checkout: pip install . scipy scikit-learn; python examples/sklearn_estimator.py
"""

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

import fastce


class SoftmaxClassifier(ClassifierMixin, BaseEstimator):
    """Linear logits under a softmax loss, plus alpha/2 times the sum of squared weights.

    `loss` is a softmax loss of fastce; None means cross-entropy. Its reduction must be "mean".
    """

    def __init__(self, loss=None, *, alpha=1e-3, max_iter=1000, tol=1e-7):
        self.loss = loss
        self.alpha = alpha
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X, y, sample_weight=None):
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, label = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]!r}, and a classifier needs two")
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        loss = fastce.SoftmaxCrossEntropy() if self.loss is None else self.loss
        x = np.column_stack([X, np.ones(len(X))])
        shape = x.shape[1], len(self.classes_)

        def value_and_grad(parameters):
            w = parameters.reshape(shape)
            value, grad = loss.value_and_grad(x @ w, label, sample_weight=sample_weight)
            d_w = x.T @ grad
            d_w[:-1] += self.alpha * w[:-1]  # the last row, the intercepts, has no penalty
            return value + self.alpha / 2 * np.sum(w[:-1] ** 2), d_w.ravel()

        options = {"maxiter": self.max_iter, "gtol": self.tol, "ftol": 0}
        with threadpool_limits(1, "blas"):  # small products: threads would only wait for each other
            start = np.zeros(shape).ravel()
            found = minimize(value_and_grad, start, jac=True, method="L-BFGS-B", options=options)
        w = found.x.reshape(shape)
        self.coef_, self.intercept_ = w[:-1].T, w[-1]
        self.n_iter_ = found.nit
        return self

    def _logits(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_.T + self.intercept_

    def decision_function(self, X):
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X):
        return fastce.softmax(self._logits(X))

    def predict(self, X):
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]


if __name__ == "__main__":
    x, x_test, y, y_test = train_test_split(*load_digits(return_X_y=True), random_state=0)
    losses = [fastce.SoftmaxCrossEntropy(label_smoothing=share) for share in (0.0, 0.05, 0.2)]
    losses += [fastce.SoftmaxFocalLoss(gamma=gamma) for gamma in (1.0, 3.0)]
    grid = {"softmaxclassifier__loss": losses, "softmaxclassifier__alpha": [1e-4, 1e-3]}
    pipeline = make_pipeline(MinMaxScaler(), SoftmaxClassifier(tol=1e-4))
    search = GridSearchCV(pipeline, grid, cv=3, scoring="neg_log_loss").fit(x, y)
    print(f"best of {len(search.cv_results_['params'])}: {search.best_params_}")
    print(f"held-out log loss {-search.score(x_test, y_test):.4f}, "
          f"accuracy {search.best_estimator_.score(x_test, y_test):.2%}")
