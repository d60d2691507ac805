"""The oracle itself, against 100-digit arithmetic and high-order differences."""

from __future__ import annotations

import ast
from pathlib import Path

import mpmath
import numpy as np
import pytest
from cases import CASES, Batch, case

from fastce import reference

LONG = np.longdouble
ROWS = {
    "ordinary": [0.5, -1.25, 2.0, 0.75],
    "wrong": [-7.5, 3.0, 1.0, -2.0],
    "tie": [2.0, 2.0, -1.0, 0.0],
    "leads by 10": [10.0, 0.0, -3.5, -0.25],
    "leads by 25": [25.0, -0.5, 0.0, -1.0],
    "leads by 60": [60.0, 0.0, 0.0, -2.0],
    "trails by 60": [-60.0, 0.0, 1.0, -2.0],
}
# The target is class 0.
KEPT = [True, True, False, True]
WEIGHT = [0.5, 1.5, 0.25, 2.0]
GAMMAS = (0, 0.3, 0.5, 1, 2, 3.7)

CROSS_ENTROPY = {
    "plain": {},
    "weight": {"weight": WEIGHT},
    "smoothing": {"label_smoothing": 0.1},
    "weight, smoothing": {"weight": WEIGHT, "label_smoothing": 0.3},
    "z-loss": {"z_loss": 0.01},
    "scale": {"logit_scale": 0.3},
    "softcap": {"softcap": 12.0},
    "where": {"where": KEPT},
    "all": {
        "weight": WEIGHT,
        "label_smoothing": 0.3,
        "z_loss": 0.01,
        "logit_scale": 0.7,
        "softcap": 30.0,
        "where": KEPT,
    },
}


@pytest.fixture(autouse=True)
def hundred_digits():
    with mpmath.workdps(100):
        yield


def derivatives(f, z):
    """Value, gradient and Hessian diagonal of f at the list z."""

    def along(j):
        return lambda x: f([*z[:j], x, *z[j + 1 :]])

    grad = [mpmath.diff(along(j), z[j]) for j in range(len(z))]
    hess = [mpmath.diff(along(j), z[j], 2) for j in range(len(z))]
    return f(z), grad, hess


def exact_cross_entropy(q, *, weight=None, label_smoothing=0, z_loss=0, logit_scale=1, **others):
    softcap, where = others.get("softcap"), others.get("where", [True] * len(q))
    weight = weight or [1] * len(q)
    smoothing, scale = mpmath.mpf(label_smoothing), mpmath.mpf(logit_scale)

    def f(z):
        u = [softcap * mpmath.tanh(scale * x / softcap) if softcap else scale * x for x in z]
        lse = mpmath.log(sum(mpmath.exp(x) for x, kept in zip(u, where, strict=True) if kept))
        total = z_loss * lse**2
        for u_c, q_c, w_c, kept in zip(u, q, weight, where, strict=True):
            if kept:
                total += w_c * ((1 - smoothing) * q_c + smoothing / sum(where)) * (lse - u_c)
        return total

    return f


def exact_softmax_focal(*, gamma, alpha=1, where=(True,) * 4):
    def f(z):
        exps = [mpmath.exp(x) if kept else 0 for x, kept in zip(z, where, strict=True)]
        p = exps[0] / sum(exps)
        return -alpha * (1 - p) ** mpmath.mpf(gamma) * mpmath.log(p)

    return f


def exact_divergence(teacher, temperature, where):
    def softmax(z):
        exps = [mpmath.exp(x / temperature) if k else 0 for x, k in zip(z, where, strict=True)]
        return [x / sum(exps) for x in exps]

    def f(z):
        pairs = zip(softmax(teacher), softmax(z), strict=True)
        return temperature**2 * sum(p * mpmath.log(p / q) for p, q in pairs if p)

    return f


def exact_bce(y, *, pos_weight=1, label_smoothing=0):
    smoothing = mpmath.mpf(label_smoothing)
    y = y * (1 - smoothing) + smoothing / 2

    def f(z):
        (x,) = z
        p = 1 / (1 + mpmath.exp(-x))
        return -pos_weight * y * mpmath.log(p) - (1 - y) * mpmath.log(1 - p)

    return f


def exact_sigmoid_focal(y, *, gamma, alpha, label_smoothing=0):
    smoothing = mpmath.mpf(label_smoothing)
    y = y * (1 - smoothing) + smoothing / 2

    def f(z):
        (x,) = z
        p = 1 / (1 + mpmath.exp(-x))
        p_t = p * y + (1 - p) * (1 - y)
        alpha_t = 1 if alpha is None else alpha * y + (1 - mpmath.mpf(alpha)) * (1 - y)
        cross_entropy = -y * mpmath.log(p) - (1 - y) * mpmath.log(1 - p)
        return alpha_t * (1 - p_t) ** mpmath.mpf(gamma) * cross_entropy

    return f


def assert_equals(function, z, target, exact, rtol, atol=0.0, **options):
    """The loss of z and its derivatives, in float64 and in longdouble, to as many digits."""
    for dtype in (np.float64, LONG):
        finer = float(np.finfo(dtype).eps / np.finfo(np.float64).eps)
        given = {name: in_precision(option, dtype) for name, option in options.items()}
        target = in_precision(target, dtype)
        result = function(np.asarray(z, dtype), target, reduction="none", **given)
        for actual, truth in zip(result, exact, strict=True):
            assert actual.dtype == dtype
            digits = [LONG(mpmath.nstr(x, 30)) for x in np.ravel(truth)]
            truth = np.reshape(digits, actual.shape)
            np.testing.assert_allclose(actual, truth, rtol=rtol * finer, atol=atol * finer)


def in_precision(value, dtype):
    """Take numbers with a point to a dtype; labels, masks and None are left as they are."""
    array = np.asarray(value)
    return array.astype(dtype)[()] if array.dtype == np.float64 else value


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("options", CROSS_ENTROPY)
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy(soft, options, row):
    """With a label, if nothing cancels, every digit is right, down to tails of 1e-26."""
    options, z = CROSS_ENTROPY[options], ROWS[row]
    target, q = 0, [1, 0, 0, 0]
    if soft:
        target = q = [0.6, 0.15, 0.0, 0.3] if "where" in options else [0.6, 0.1, 0.3, 0.0]
    f = exact_cross_entropy([mpmath.mpf(x) for x in q], **options)
    exact = derivatives(f, [mpmath.mpf(x) for x in z])
    atol = 1e-15 if soft or options.keys() - {"weight", "where"} else 0
    assert_equals(reference.softmax_cross_entropy, z, target, exact, 1e-13, atol, **options)


@pytest.mark.parametrize("row", ["ordinary", "leads by 25"])
@pytest.mark.parametrize("noise", [1e-6, 0.1, 30.0])
@pytest.mark.parametrize(("temperature", "where"), [(1.0, [True] * 4), (2.5, KEPT)])
def test_divergence(temperature, where, noise, row):
    z = ROWS[row]
    teacher = [x + noise * step for x, step in zip(z, (0.5, -1.0, 0.25, 1.5), strict=True)]
    f = exact_divergence([mpmath.mpf(x) for x in teacher], mpmath.mpf(temperature), where)
    exact = derivatives(f, [mpmath.mpf(x) for x in z])
    # The rounding error of t - z is in all results.
    options = {"temperature": temperature, "where": where}
    rtol = 1e-12 + 1e-14 / noise
    assert_equals(reference.softmax_kl_divergence, z, teacher, exact, rtol, **options)


@pytest.mark.parametrize("row", ROWS)
def test_one_hot_probabilities_keep_the_tails(row):
    by_label = reference.softmax_cross_entropy(ROWS[row], 0)
    by_one_hot = reference.softmax_cross_entropy(ROWS[row], [1.0, 0.0, 0.0, 0.0])
    for a, b in zip(by_label, by_one_hot, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("masked", [False, True])
def test_softmax_focal(gamma, row, masked):
    where, z = KEPT if masked else [True] * 4, ROWS[row]
    f = exact_softmax_focal(gamma=gamma, alpha=0.75, where=where)
    exact = derivatives(f, [mpmath.mpf(x) for x in z])
    options = {"gamma": gamma, "alpha": [0.75, 1.0, 1.0, 1.0], "where": where}
    assert_equals(reference.softmax_focal_loss, z, 0, exact, 2e-13, **options)


@pytest.mark.parametrize("z", [-60.0, -10.25, -0.5, 0.0, 1.0, 17.0, 60.0])
@pytest.mark.parametrize("y", [0.0, 1.0, 0.3, 0.5])
@pytest.mark.parametrize("pos_weight", [1.0, 2.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_bce(z, y, pos_weight, smoothing):
    options = {"pos_weight": pos_weight, "label_smoothing": smoothing}
    exact = derivatives(exact_bce(mpmath.mpf(y), **options), [mpmath.mpf(z)])
    atol = 1e-15 if smoothing or 0 < y < 1 else 0
    assert_equals(reference.bce_with_logits, z, y, exact, 1e-14, atol, **options)


@pytest.mark.parametrize("z", [-60.0, -10.25, -0.5, 0.0, 1.0, 17.0, 60.0])
@pytest.mark.parametrize("y", [0.0, 1.0, 0.3, 0.5])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("alpha", "smoothing"), [(0.25, 0.0), (None, 0.0), (0.9, 0.2)])
def test_sigmoid_focal(z, y, gamma, alpha, smoothing):
    options = {"gamma": gamma, "alpha": alpha, "label_smoothing": smoothing}
    exact = derivatives(exact_sigmoid_focal(mpmath.mpf(y), **options), [mpmath.mpf(z)])
    atol = 1e-15 if smoothing or 0 < y < 1 else 0
    assert_equals(reference.sigmoid_focal_loss, z, y, exact, 2e-13, atol, **options)


@pytest.mark.parametrize("c", CASES, ids=str)
def test_derivatives_against_differences(c, rng):
    """Central differences of order 8, of the value and of the gradient, in extended precision."""
    batch = c.batch()
    z = batch.logits.astype(LONG)
    step = LONG(1) / 256
    coefficients = [(1, LONG(4) / 5), (2, -LONG(1) / 5), (3, LONG(4) / 105), (4, -LONG(1) / 280)]
    rounding = np.finfo(LONG).eps / step

    def evaluate(z):
        loss, grad, _ = c.truth(Batch(z, batch.target, batch.call))
        if c.reduction == "none":
            return np.sum(loss * batch.call.get("grad_output", 1)), grad
        return loss * batch.call.get("grad_output", 1), grad

    def differences(direction):
        """The derivative of value and gradient along a direction."""
        ahead, behind = (
            [evaluate(z + sign * k * step * direction) for k, _ in coefficients] for sign in (1, -1)
        )
        return tuple(
            sum(
                factor * (a[i] - b[i]) / step
                for (_, factor), a, b in zip(coefficients, ahead, behind, strict=True)
            )
            for i in (0, 1)
        )

    value, grad, hess = c.truth(Batch(z, batch.target, batch.call))
    if c.name == "all ignored":
        assert np.isnan(value)
        assert not grad.any()
        assert not hess.any()
        return
    size = float(np.sum(np.abs(value))) + 1
    for _ in range(2):
        direction = rng.uniform(-1, 1, z.shape).astype(LONG)
        slope, _ = differences(direction)
        assert abs(slope - np.sum(grad * direction)) <= (1e-16 + 20 * rounding) * size

    # Rows, and elements of a sigmoid loss, do not affect each other: one class of all rows at once.
    if not c.is_softmax:
        _, second = differences(np.ones_like(z))
        np.testing.assert_allclose(second, hess, rtol=0, atol=1e-16 + 20 * rounding)
        return
    classes = z.shape[c.axis]
    for j in np.unique(np.linspace(0, classes - 1, 10).astype(int)):
        one_class = np.zeros(classes, LONG)
        one_class[j] = 1
        direction = np.moveaxis(
            np.broadcast_to(one_class, np.moveaxis(z, c.axis, -1).shape), -1, c.axis
        )
        _, second = differences(direction)
        np.testing.assert_allclose(
            np.take(second, j, c.axis),
            np.take(hess, j, c.axis),
            rtol=0,
            atol=1e-16 + 20 * rounding,
        )


def test_every_case_has_a_name_of_its_own():
    names = [str(c) for c in CASES]
    assert len(names) == len(set(names))


def test_cases_reach_what_they_are_for():
    """The masks, weights and ignored rows of the cases are not all alike."""
    batch = case("SoftmaxCrossEntropy", "everything").batch()
    for some in (batch.call["where"], batch.target == -100, batch.call["sample_weight"] == 0):
        assert 0 < some.sum() < some.size
    batch = case("BCEWithLogits", "everything").batch()
    for some in (batch.call["where"], batch.call["sample_weight"] == 0, batch.target == 1):
        assert 0 < some.sum() < some.size


def test_mean_is_the_weighted_mean(rng):
    """Class weights and sample weights are the denominator; alpha and pos_weight are not."""
    z, y = rng.normal(size=(9, 4)), rng.integers(4, size=9)
    q, s, w = rng.random((9, 4)), rng.random(9), np.array(WEIGHT)
    for loss, target, option, weight, denominator in (
        (reference.softmax_cross_entropy, y, "weight", s, (s * w[y]).sum()),
        (reference.softmax_cross_entropy, q, "weight", s, s.sum()),
        (reference.softmax_focal_loss, y, "alpha", s, s.sum()),
        (reference.bce_with_logits, q, "pos_weight", s[:, None], 4 * s.sum()),
    ):
        given = {option: w, "sample_weight": weight}
        losses, *_ = loss(z, target, reduction="none", **given)
        mean, *_ = loss(z, target, **given)
        assert mean == pytest.approx(losses.sum() / denominator, rel=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_is_computed_in_float64(dtype):
    batch = case("SoftmaxCrossEntropy", "everything").batch(dtype)
    c = case("SoftmaxCrossEntropy", "everything")
    loss, grad, hess = reference.softmax_cross_entropy(
        batch.logits, batch.target, **c.options, **batch.call
    )
    assert type(loss) is float
    assert grad.dtype == hess.dtype == np.float64
    same = reference.softmax_cross_entropy(
        batch.logits.astype(np.float64), batch.target, **c.options, **batch.call
    )
    np.testing.assert_array_equal(grad, same[1])


@pytest.mark.skipif(np.finfo(LONG).eps == np.finfo(float).eps, reason="longdouble is float64")
def test_target_mass_of_many_classes_is_longdouble_too():
    """It was added up in float64 once: 2,047 equal terms, one after the other, lost two digits."""
    z = np.linspace(-3, 3, 2 * 2047).reshape(2047, 2).astype(LONG)
    q = np.eye(2047, 2, dtype=np.float32)
    _, grad, hess = reference.softmax_cross_entropy(
        z, q, label_smoothing=0.1, axis=0, where=np.ones(z.shape, bool), reduction="none"
    )
    p = reference.softmax(z, axis=0)
    np.testing.assert_allclose(hess / (p * (1 - p)), np.ones(z.shape), rtol=1e-16)
    np.testing.assert_allclose(grad.sum(axis=0), [0, 0], atol=1e-17)


def test_it_imports_numpy_alone():
    imported = set()
    for file in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    own = {name for name in imported if name.startswith("fastce.reference")}
    assert imported - own == {"__future__", "typing", "numpy", "numpy.typing"}


def test_functions_beside_the_losses():
    z = np.array(list(ROWS.values()))
    exact = [[mpmath.mpf(x) for x in row] for row in z]
    lse = [mpmath.log(sum(mpmath.exp(x) for x in row)) for row in exact]
    log_p = np.array([[x - s for x in row] for row, s in zip(exact, lse, strict=True)], float)
    np.testing.assert_allclose(reference.log_softmax(z), log_p, rtol=1e-14)
    np.testing.assert_allclose(reference.softmax(z.T, axis=0), np.exp(log_p).T, rtol=1e-13)
    np.testing.assert_allclose(reference.logsumexp(z), np.array(lse, float), rtol=1e-14)
    labels = np.array([0, 1, 2, 3, 0, 1, 2])
    result = reference.token_log_probs(z, labels)
    np.testing.assert_allclose(result.log_prob, log_p[np.arange(7), labels], rtol=1e-14)
    np.testing.assert_array_equal(result.argmax, [2, 1, 0, 0, 0, 0, 2])
    np.testing.assert_allclose(reference.log_softmax([20.0, 0.0])[0], -2.061153620314381e-09)


def test_logsumexp_of_infinities():
    inf, nan = np.inf, np.nan
    z = np.array([[inf, 0.0], [-inf, -inf], [-inf, 2.0], [inf, -inf], [nan, inf]])
    np.testing.assert_array_equal(reference.logsumexp(z), [inf, -inf, 2.0, inf, nan])


def exact_statistics(u, y):
    """The statistics of one row of numbers with all digits."""
    top = max(u)
    e = [mpmath.exp(x - top) if x > -mpmath.inf else mpmath.mpf(0) for x in u]
    p = [x / mpmath.fsum(e) for x in e]
    finite = [(q, top - x) for q, x in zip(p, u, strict=True) if q]
    mean = mpmath.fsum(q * d for q, d in finite)
    first = u.index(top)
    return {
        "top_prob": p[first],
        "entropy": -mpmath.fsum(q * mpmath.log(q) for q, _ in finite),
        "other_squares": mpmath.fsum(q * q for j, q in enumerate(p) if j != first),
        "rank": sum(x > u[y] or (x == u[y] and j > y) for j, x in enumerate(u)),
        "variance": mpmath.fsum(q * (d - mean) ** 2 for q, d in finite),
    }


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_statistics_of_rows(temperature):
    z = np.array([*ROWS.values(), [1.0, -np.inf, 1.0, 0.0], [3.0, -np.inf, -np.inf, -np.inf]])
    labels = np.arange(len(z)) % 4
    found = reference.row_statistics(z, labels, temperature=temperature)
    for i, (row, y) in enumerate(zip(z, labels, strict=True)):
        exact = exact_statistics([mpmath.mpf(float(x)) / temperature for x in row], y)
        for name, expected in exact.items():
            value = float(getattr(found, name)[i])
            assert value == pytest.approx(float(expected), rel=1e-13, abs=0), (name, row)


def test_statistics_of_rows_without_a_softmax():
    z = np.array([[0.0, np.nan], [np.inf, 0.0], [-np.inf, -np.inf], [0.0, 1.0]])
    for values in reference.row_statistics(z, [0, 0, 0, 0]):
        np.testing.assert_array_equal(np.isnan(values), [True, True, True, False])
