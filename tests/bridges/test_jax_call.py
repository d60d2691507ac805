"""The way from XLA to the kernels: structures, versions, types, errors."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from processes import run

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import fastce  # noqa: E402
import fastce.jax as bridge  # noqa: E402
from fastce.jax import _ffi  # noqa: E402


@pytest.fixture
def functions(monkeypatch):
    """Return a dict in which calls look up the functions of their texts."""
    texts: dict[str, _ffi.Function] = {}
    monkeypatch.setattr(_ffi, "_functions", {})
    monkeypatch.setattr(_ffi, "_read", texts.__getitem__)
    return texts


def fields_in_header(name):
    """Return the names of a structure's fields as the header that JAX ships declares them."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text("utf-8")
    body = re.search(rf"struct {name} \{{(.+?)\n\}}", header, re.DOTALL)[1]
    body = re.sub(r"//.*", "", body)
    body = re.sub(r"_XLA_FFI_API_STRUCT_FIELD\((\w+)\)", r"void* \1", body)
    return re.findall(r"(\w+);", body)


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("XLA_FFI_Api_Version", _ffi.Version),
        ("XLA_FFI_Metadata", _ffi.Metadata),
        ("XLA_FFI_Extension_Base", _ffi.Extension),
        ("XLA_FFI_Metadata_Extension", _ffi.MetadataExtension),
        ("XLA_FFI_Buffer", _ffi.Buffer),
        ("XLA_FFI_Args", _ffi.Arguments),
        ("XLA_FFI_Rets", _ffi.Results),
        ("XLA_FFI_ByteSpan", _ffi.Text),
        ("XLA_FFI_Scalar", _ffi.Scalar),
        ("XLA_FFI_Attrs", _ffi.Attributes),
        ("XLA_FFI_CallFrame", _ffi.CallFrame),
    ],
)
def test_structures_are_xlas(name, structure):
    parents = [*reversed(structure.__mro__)]
    fields = [field for parent in parents for field, _ in vars(parent).get("_fields_", ())]
    assert len(fields) > 1
    assert fields == fields_in_header(name)[: len(fields)]  # more may follow in later versions


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("XLA_FFI_Error_Create_Args", "XlaError"),
        ("XLA_FFI_Api_Version", "XlaVersion"),
        ("XLA_FFI_Api", "XlaApi"),
        ("XLA_FFI_CallFrame", "XlaFrame"),
    ],
)
def test_structures_in_the_kernels_are_xlas(name, structure):
    source = Path(fastce.__file__).with_name("_kernels") / "xla_calls.pxi"
    body = re.search(rf"cdef struct {structure}:.*\n((?:    .+\n)+)", source.read_text("utf-8"))[1]
    fields = re.findall(r"(\w+)(?:\)\(.*)?$", body, re.MULTILINE)
    assert len(fields) > 2
    assert fields == fields_in_header(name)[: len(fields)]


def version_that_xla_is_told():
    metadata, extension = _ffi.Metadata(), _ffi.MetadataExtension()
    extension.extension_base.type = _ffi.METADATA
    extension.metadata = ctypes.pointer(metadata)
    frame = _ffi.CallFrame(extension_start=ctypes.addressof(extension))
    _ffi._handle(ctypes.addressof(frame))
    return metadata.api_version.major_version, metadata.api_version.minor_version


def test_xla_is_told_the_version_that_is_used():
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text("utf-8")
    major, minor = (
        int(re.search(rf"define XLA_FFI_API_{part} (\d+)", header)[1])
        for part in ("MAJOR", "MINOR")
    )
    assert version_that_xla_is_told() == (0, 1)
    assert (major, minor) >= version_that_xla_is_told()


OF_THE_FUTURE = """
import jax.numpy as jnp, fastce, fastce.jax
from fastce.jax import _ffi
_ffi.API_MINOR = 99  # XLA asks when it starts
fastce.jax.function(fastce.BCEWithLogits())(jnp.zeros(2), jnp.zeros(2))
"""


def test_xla_refuses_a_version_that_it_does_not_serve():
    finished = run("-c", OF_THE_FUTURE)
    assert finished.returncode != 0
    assert "0.99" in finished.stderr


@pytest.mark.parametrize("dtype", _ffi.TYPES.values(), ids=str)
def test_xla_hands_over_every_type(dtype, double, functions):
    given = np.arange(6).reshape(2, 3).astype(dtype)
    seen = []

    def copy(arrays, results):
        seen.append(arrays[0].copy())
        results[0][...] = arrays[0]

    functions["copy"] = copy
    (returned,) = _ffi.call("copy", [((2, 3), dtype)], given)
    assert returned.dtype == dtype
    np.testing.assert_array_equal(returned, given)
    (array,) = seen
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, given)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_xla_hands_over_arrays_without_axes_or_elements(shape, functions):
    def double_it(arrays, results):
        assert arrays[0].shape == results[0].shape == shape
        results[0][...] = 2 * arrays[0]

    functions["double"] = double_it
    (returned,) = _ffi.call("double", [(shape, np.float32)], jnp.full(shape, 1.5))
    np.testing.assert_array_equal(returned, np.full(shape, 3.0))


def test_an_error_goes_through_xla(functions):
    def fail(arrays, results):
        raise MemoryError("no room")

    functions["fail"] = fail
    with pytest.raises(jax.errors.JaxRuntimeError, match="MemoryError: no room"):
        jax.block_until_ready(_ffi.call("fail", [((2,), np.float32)], jnp.zeros(2)))


# Losses as texts ----------------------------------------------------------------------------------

LOSSES = [
    fastce.SoftmaxCrossEntropy(),
    fastce.SoftmaxCrossEntropy(
        weight=[0.1, 1 / 3, 1e-300],
        ignore_index=-(2**63),
        label_smoothing=0.1,
        z_loss=-1e-4,
        logit_scale=0.7,
        softcap=30.0,
        reduction="none",
        axis=1,
    ),
    fastce.SoftmaxFocalLoss(gamma=0.3, alpha=[0.25, 2.0], reduction="sum"),
    fastce.BCEWithLogits(pos_weight=3.0),
    fastce.BCEWithLogits(pos_weight=[[0.1, 0.2], [0.3, 0.4]], label_smoothing=0.01),
    fastce.BCEWithLogits(pos_weight=np.ones((2, 0, 3))),
    fastce.SigmoidFocalLoss(alpha=None),
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_text_holds_the_whole_loss(loss, monkeypatch):
    called = []
    monkeypatch.setattr(fastce.losses.Loss, "__call__", lambda self, **_: called.append(self) or 0)
    text = bridge._description(loss, 1, ("logits", "target"))
    bridge._read(text)([np.zeros(2), np.zeros(2)], [np.zeros(())])
    assert called == [loss]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"loss": "NovelLoss", "options": {}, "rank": 1, "arguments": []}', "contains NovelLoss"),
        (
            '{"loss": "BCEWithLogits", "options": {"novel": 1}, "rank": 1, "arguments": []}',
            "contains BCEWithLogits with the options novel, which this version of fastce does not",
        ),
    ],
)
def test_a_loss_of_another_version_is_refused(text, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(_ffi.call(text, [((), np.float32)], jnp.zeros(2)))
