"""fastce.torch on the sample inputs that torch tests its own losses with."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # torch's samples need it

import torch.nn.functional as functional  # noqa: E402
from torch_calls import both  # noqa: E402

import fastce.torch as bridge  # noqa: E402

WEIGHTS = ("weight", "pos_weight")


@pytest.fixture(scope="module")
def operators():
    """torch's list of operators, each with its samples."""
    from torch.testing._internal import common_methods_invocations

    return {
        operator.name: operator
        for operator in common_methods_invocations.op_db
        if not operator.variant_test_name
    }


def assert_same(name, sample, options):
    functions = getattr(bridge, name), getattr(functional, name)
    results = both(*functions, sample.input, *sample.args, **options)
    (loss, grad), (expected, expected_grad) = results
    assert loss.dtype == expected.dtype
    assert grad.dtype == expected_grad.dtype
    relative = 16 * torch.finfo(grad.dtype).eps
    # torch's logits are up to 9 in size, and so are the terms that cancel in a loss and a gradient.
    largest = float(expected_grad.abs().max())
    torch.testing.assert_close(loss, expected, rtol=relative, atol=9 * relative)
    torch.testing.assert_close(grad, expected_grad, rtol=relative, atol=relative * largest)


@pytest.mark.filterwarnings("ignore")  # those of torch's own modules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("name", "total"), [("cross_entropy", 21), ("binary_cross_entropy_with_logits", 26)]
)
def test_torchs_own_samples(name, total, dtype, operators):
    """All of them. A negative class weight is refused; its absolute value is not."""
    torch.manual_seed(20240607)
    samples = list(operators[f"nn.functional.{name}"].sample_inputs("cpu", dtype))
    negative, refused = set(), set()
    for sample in samples:
        options = dict(sample.kwargs)
        keys = [key for key in WEIGHTS if key in options and bool((options[key] < 0).any())]
        negative.update(keys)
        if keys and name == "cross_entropy":
            with pytest.raises(ValueError, match="weight"):
                getattr(bridge, name)(sample.input, *sample.args, **options)
            refused.update(keys)
            options |= {key: options[key].abs() for key in keys}
        assert_same(name, sample, options)
    assert len(samples) == total
    assert negative == {"weight"}  # torch draws weights from both signs, and pos_weight from one
    assert refused == ({"weight"} if name == "cross_entropy" else set())
    assert {s.kwargs.get("reduction") for s in samples} == {None, "mean", "sum", "none"}
