"""Random calls of `linear`, `information` and `evaluation`, which compute in Python around kernels.

The search is the same in every run; `make fuzz` goes on from there.
"""

from __future__ import annotations

from unittest import mock

import numpy as np
from bounds import assert_equals_the_reference, tolerances, working
from cases import DTYPES, SOFTMAX, Batch, Case
from drawn import CLASSES, SEEDS, TYPES, laid_out, made_logits, shapes, softmax_batches
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st

from fastce import information, linear, reference
from fastce._call import variants
from fastce.evaluation import _evaluate, evaluate

VARIANTS = st.sampled_from(variants.available())
EPS = float(np.finfo(np.float64).eps)


# A linear layer -----------------------------------------------------------------------------------


def drawn_layer(draw, rng, used, classes, dtype):
    """Small multiples of 1/8 and 1/64, so that every logit is exact in float32."""
    rows = used.shape
    features = draw(st.integers(0, 9))
    hidden, weight = (
        (rng.integers(-32, 33, size=(*shape, features)) / 8).astype(dtype)
        for shape in (rows, (classes,))
    )
    bias = (rng.integers(-128, 129, size=classes) / 64).astype(dtype)
    if draw(st.integers(0, 3)) == 0:  # a class that is excluded, or two
        bias[rng.integers(classes, size=2)] = -np.inf
    if draw(st.booleans()):  # rows without a softmax, or only rows that do not count
        spoilt = (rng.random(rows) < 0.2) & (~used | draw(st.booleans()))
        hidden[spoilt] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return hidden, weight, bias if draw(st.booleans()) else None


def products(a, b, bound_of_a):
    """a @ b in extended precision, and a bound on its error if terms are rounded and added up."""
    a, b = a.astype(np.longdouble), b.astype(np.longdouble)
    return a @ b, bound_of_a(np.abs(a)) @ np.abs(b)


@FUZZ
@given(data=st.data(), small_chunks=st.booleans())
@np.errstate(invalid="ignore")
def test_a_linear_layer_is_the_reference_and_the_chain_rule(data, small_chunks):
    c, batch = data.draw(softmax_batches(SOFTMAX))
    soft = batch.target.ndim == batch.logits.ndim
    target = np.moveaxis(batch.target, c.axis, -1) if soft else batch.target
    rows, classes = tuple(np.delete(batch.logits.shape, c.axis)), batch.logits.shape[c.axis]
    dtype = batch.logits.dtype.newbyteorder("=")
    rng = np.random.default_rng(data.draw(SEEDS))
    call = {x: batch.call[x] for x in ("sample_weight", "normalizer") if x in batch.call}
    used = np.ones(rows, bool) if soft else target != c.options.get("ignore_index", -100)
    used = used & (call.get("sample_weight", 1.0) != 0)
    layer = drawn_layer(data.draw, rng, used, classes, dtype)
    hidden, weight, bias = (None if x is None else x.astype(float) for x in layer)
    logits = hidden @ weight.T + (0 if bias is None else bias)
    c = Case("drawn", c.loss, None, logits.shape, options={**c.options, "axis": -1})
    computed_in = working(dtype)
    batch = Batch(logits.astype(computed_in), target, call)
    truth, bound = c.truth(batch), tolerances(c, batch)

    names = ("CHUNK_BYTES", "FEWEST_ROWS", "BLOCK_BYTES")
    small = (20 * classes * computed_in.itemsize, 1, 99)
    sizes = small if small_chunks else (getattr(linear, name) for name in names)
    with (
        mock.patch.multiple(linear, **dict(zip(names, sizes, strict=True))),
        variants.using(data.draw(VARIANTS)),
    ):
        value, *grads = linear.linear_cross_entropy(
            layer[0], layer[1], target, layer[2], loss=c.build(), **call
        )
    value_dtype = computed_in if c.reduction == "none" else np.dtype(float)
    assert_equals_the_reference(value, truth[0], bound[0], value_dtype, computed_in)

    if c.reduction == "mean" and not truth[1].any():  # if nothing counts, no row is read
        used = np.zeros_like(used)
    used = np.ravel(used)
    grad, bound_of_grad = (x.reshape(-1, classes)[used] for x in (truth[1], bound[1]))
    # As in assert_equals_the_reference, if the label is excluded.
    bound_of_grad = np.where(np.isnan(bound_of_grad), 1e-4 * np.abs(grad), bound_of_grad)
    hidden = hidden.reshape(used.size, hidden.shape[-1])[used]
    eps = float(np.finfo(computed_in).eps)
    expected = [np.zeros((used.size, weight.shape[1]), np.longdouble) for _ in range(2)]
    for whole, part in zip(
        expected,
        products(grad, weight, lambda size: bound_of_grad + (classes + 2) * eps * size),
        strict=True,
    ):
        whole[used] = part
    pairs = [expected]
    for other in (hidden, np.ones((len(grad), 1))):
        pairs.append(
            products(grad.T, other, lambda size: bound_of_grad.T + (len(grad) + 2) * eps * size)
        )
    assert (grads[2] is None) == (bias is None)
    for found, (exact, error) in zip(grads, pairs, strict=True):
        if found is not None:
            assert found.dtype == dtype
            exact, error = exact.reshape(found.shape), error.reshape(found.shape)
            assert_equals_the_reference(found, exact, error, dtype, computed_in)


# Probabilities ------------------------------------------------------------------------------------


def drawn_distribution(draw, rng, shape, axis):
    """In float64: dense, sparse, certain, or with some of the smallest numbers that there are."""
    kind = draw(st.sampled_from(["dense", "sparse", "certain", "tiny"]))
    p = np.moveaxis(rng.exponential(size=shape) ** 3, axis, -1)
    if kind == "sparse":
        p = p * (rng.random(p.shape) < 0.5)
    if kind == "certain":
        p = np.zeros(p.shape)
    p[..., rng.integers(p.shape[-1])] += 1e-3
    p = p / p.sum(-1, keepdims=True)
    if kind == "tiny":
        p = np.where((p < 0.3) & (rng.random(p.shape) < 0.5), 5e-324, p)
        p = p / p.sum(-1, keepdims=True)
    return np.moveaxis(p, -1, axis)


@st.composite
def distributions(draw):
    """Two distributions that broadcast together, often close to each other, and the axis."""
    shape, axis = draw(shapes(draw(st.one_of(st.integers(1, 40), st.just(1000)))))
    axis %= len(shape)
    rng = np.random.default_rng(draw(SEEDS))
    p = drawn_distribution(draw, rng, shape, axis)
    if draw(st.booleans()):
        q = p * (1 + draw(st.sampled_from([1e-9, 1e-4, 0.5])) * rng.uniform(-1, 1, shape))
        q = q / q.sum(axis, keepdims=True)
    else:
        q = drawn_distribution(draw, rng, shape, axis)
    if axis > 0 and draw(st.booleans()):
        q = q[:1] if draw(st.booleans()) or len(q) == 0 else q[0]
    both = [x.astype(DTYPES[draw(st.sampled_from(TYPES))]) for x in (p, q)]
    # Zero strides along the classes would repeat one of them.
    p, q = (laid_out(draw, x) if axis > 0 and x.ndim == len(shape) else x for x in both)
    return p, q, axis - len(shape)


def log(x):
    with np.errstate(divide="ignore"):
        return np.log(x)


def times(x, y):
    """x·y, and 0 if x is 0."""
    with np.errstate(invalid="ignore"):
        return np.where(x == 0, 0, x * y)


def assert_is_sum(found, terms, errors, axis, arrays):
    """Added up in float64, and rounded to float32 if no array is wider."""
    narrow = all(x.dtype.itemsize <= 4 for x in arrays)
    dtype = np.dtype(np.float32 if narrow else np.float64)
    assert found.dtype == dtype
    expected = terms.sum(axis)
    with np.errstate(invalid="ignore"):
        error = (4 + terms.shape[axis]) * EPS * np.abs(terms).sum(axis) + errors.sum(axis) * EPS
    error = np.where(np.isfinite(expected), error, 0)
    half_an_ulp = 0.5 * np.finfo(dtype).eps * np.abs(np.where(np.isfinite(expected), expected, 0))
    smallest = float(np.finfo(dtype).smallest_subnormal)
    error = error + half_an_ulp + (terms.shape[axis] + 1) * smallest
    assert found.shape == expected.shape
    same = found == expected
    with np.errstate(invalid="ignore"):
        assert np.all(same | (np.abs(found - expected) <= error))


@FUZZ
@given(drawn=distributions())
def test_entropies_and_divergences_are_their_sums(drawn):
    p, q, axis = drawn
    x, y = np.broadcast_arrays(p.astype(np.longdouble), q.astype(np.longdouble))
    none = np.zeros(x.shape)
    with np.errstate(all="raise"):
        entropy = information.entropy(p, axis=axis)
        cross = information.cross_entropy(p, q, axis=axis)
        kl = information.kl_divergence(p, q, axis=axis)
    own = p.astype(np.longdouble)
    assert_is_sum(entropy, times(own, -log(own)), np.zeros(own.shape), axis, [p])
    assert_is_sum(cross, times(x, -log(y)), none, axis, [p, q])

    # Two numbers within a factor of 5/3 have an exact or almost exact difference, so that nothing
    # cancels; for others, log p − log q cancels, and so does p·log(p/q) − p + q.
    with np.errstate(all="ignore"):
        ratio = np.log1p((x - y) / y)
        near = np.abs(x - y) <= (x + y) / 4
        delta = np.where(near, ratio, 0)
        terms = np.where(near, x * reference._divergence_term(delta), times(x, log(x) - log(y)))
        terms = np.where(x == 0, y, terms + np.where(near, 0, y - x))
        sizes = times(x, np.abs(log(x)) + np.abs(log(y))) + x + y
    lost = np.where(near | ~np.isfinite(sizes), 8 * np.where(near, terms, 0), 4 * sizes)
    assert_is_sum(kl, terms, lost, axis, [p, q])


@FUZZ
@given(data=st.data())
def test_binary_cross_entropy_is_its_sum(data):
    shape, _ = data.draw(shapes(data.draw(st.integers(1, 40))))
    rng = np.random.default_rng(data.draw(SEEDS))
    drawn = []
    for _ in range(2):
        x = rng.random(shape)
        special = [0.0, 1.0, 5e-324, 1e-20, np.nextafter(1, 0)]
        x = np.where(rng.random(shape) < 0.3, rng.choice(special, size=shape), x)
        drawn.append(laid_out(data.draw, x.astype(DTYPES[data.draw(st.sampled_from(TYPES))])))
    with np.errstate(all="raise"):
        found = information.binary_cross_entropy(*drawn)
    y, p = (x.astype(np.longdouble) for x in drawn)
    with np.errstate(divide="ignore"):
        terms = np.stack([times(y, -log(p)), times(1 - y, -np.log1p(-p))])
    assert_is_sum(found, terms, np.zeros(terms.shape), 0, drawn)


@FUZZ
@given(data=st.data())
def test_a_negative_log_likelihood_is_the_number_of_the_target(data):
    shape, axis = data.draw(shapes(data.draw(st.integers(1, 40))))
    rng = np.random.default_rng(data.draw(SEEDS))
    z = rng.normal(scale=data.draw(st.sampled_from([0.1, 3.0, 100.0])), size=shape)
    z = np.where(rng.random(shape) < 0.2, -np.inf, z)
    z = np.where(np.isneginf(z.max(axis, keepdims=True)), 0.0, z) if z.size else z
    log_probs = reference.log_softmax(z, axis).astype(DTYPES[data.draw(st.sampled_from(TYPES))])
    log_probs = laid_out(data.draw, log_probs) if axis % len(shape) else log_probs
    target = laid_out(data.draw, rng.integers(shape[axis], size=tuple(np.delete(shape, axis))))
    found = information.negative_log_likelihood(log_probs, target, axis=axis)
    rows = np.moveaxis(log_probs, axis, -1).astype(float).reshape(-1, shape[axis])
    expected = [-row[label] for row, label in zip(rows, target.flat, strict=True)]
    np.testing.assert_array_equal(found, np.reshape(expected, target.shape))


# Evaluations --------------------------------------------------------------------------------------


@FUZZ
@given(data=st.data(), block_rows=st.sampled_from([16, 500, 1 << 14]))
def test_an_evaluation_is_the_sum_of_its_rows(data, block_rows):
    shape, axis = data.draw(shapes(data.draw(CLASSES)))
    rng = np.random.default_rng(data.draw(SEEDS))
    dtype = DTYPES[data.draw(st.sampled_from(TYPES))]
    logits = laid_out(
        data.draw, made_logits(data.draw, rng, shape, dtype.name, data.draw(st.booleans()))
    )
    classes = shape[axis]
    ignore_index = data.draw(st.sampled_from([-100, 0, classes - 1]))
    target = rng.integers(classes, size=tuple(np.delete(shape, axis)))
    if data.draw(st.booleans()):
        target = np.where(rng.random(target.shape) < 0.3, ignore_index, target)
    target = laid_out(data.draw, target)
    # Powers of two, which divide logits exactly: ranks depend on their ties.
    temperature = data.draw(st.sampled_from([1.0, 0.5, 4.0, 1024.0]))
    bins, max_rank = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([1, 3, 100]))
    variant = data.draw(VARIANTS)
    with mock.patch.object(_evaluate, "BLOCK_ROWS", block_rows), variants.using(variant):
        found = evaluate(
            logits,
            target,
            axis=axis,
            ignore_index=ignore_index,
            temperature=temperature,
            bins=bins,
            max_rank=max_rank,
        )

    computed_in = working(dtype)
    with np.errstate(all="ignore"):
        z = np.moveaxis(logits, axis, -1).astype(computed_in) * computed_in.type(1 / temperature)
    used = target != ignore_index
    z, y = z[used], target[used].astype(int)
    wide = z.astype(np.longdouble)
    rows = reference.row_statistics(wide, y)
    valid = np.isfinite(rows.top_prob)
    correct = valid & (np.argmax(z, axis=-1) == y)
    assert (found.rows, found.ignored) == (y.size, target.size - y.size)
    assert found.invalid == np.count_nonzero(~valid)
    assert found.correct == np.count_nonzero(correct)
    ranks = np.bincount(np.minimum(rows.rank[valid], max_rank).astype(int), minlength=max_rank + 1)
    ranks[-1] += found.invalid
    assert found.rank_rows == tuple(ranks.tolist())

    # As in row_statistics: an exponential has the rounding of its distance from the largest logit.
    z, y, wide, correct = z[valid], y[valid], wide[valid], correct[valid]
    rows = [x[valid].astype(float) for x in rows]
    top_prob, entropy, other_squares, _, variance = rows
    finite = np.isfinite(z)
    spread = z.max(-1, initial=-np.inf, where=finite) - z.min(-1, initial=np.inf, where=finite)
    eps = float(np.finfo(computed_in).eps)
    bound = (8 + 2 * np.minimum(spread, 100.0) + classes / 256) * eps
    loss = reference.softmax_cross_entropy(wide, y, reduction="none")[0].astype(float)
    target_prob = np.exp(-loss)
    brier = np.expm1(-loss) ** 2 + other_squares + top_prob**2 - target_prob**2
    brier[correct] = (np.expm1(-loss) ** 2 + other_squares)[correct]
    for name, numbers, error in (
        ("loss_sum", loss, bound * loss),
        ("entropy_sum", entropy, 2 * bound * entropy),
        ("brier_sum", brier, 8 * bound * brier),
        ("variance_sum", variance, 4 * bound * (variance + entropy**2)),
    ):
        total, of_rows = sum(getattr(found, name)), numbers.sum()
        least = 1e-30 * (1 + y.size)  # what is below this share of a probability may vanish
        error = error.sum() + y.size * EPS * of_rows + least if np.isfinite(of_rows) else 0
        assert total == of_rows or abs(total - of_rows) <= error, name

    # Rows whose largest probability is, up to rounding, an edge of two bins, may be in either.
    confidence = [sum(x) for x in found.bin_confidence]
    for i, edge in enumerate(np.linspace(0, 1, bins + 1)[:-1]):
        smallest, largest = (top_prob * (1 + x * 2 * bound) for x in (-1, 1))
        surely, perhaps = smallest >= edge, largest >= edge
        assert surely.sum() <= sum(found.bin_rows[i:]) <= perhaps.sum()
        assert correct[surely].sum() <= sum(found.bin_correct[i:]) <= correct[perhaps].sum()
        least, most = smallest[surely].sum(), largest[perhaps].sum()
        assert least * (1 - y.size * EPS) <= sum(confidence[i:]) <= most * (1 + y.size * EPS)
