"""The signatures of the C interface are frozen, and `cimport` finds them in the variant in use."""

import os
import sys
from pathlib import Path

import pytest
from c_functions import signatures
from processes import printed_by

from fastce._call import variants

FROZEN = Path(__file__).with_name("c_interface.txt")

# Frozen -------------------------------------------------------------------------------------------


def broken(frozen, now):
    """Describe what is wrong with each promised function; new ones are welcome."""
    return [
        f"{name}: {now.get(name, 'missing')}, where {signature} is promised"
        for name, signature in frozen.items()
        if now.get(name) != signature
    ]


def frozen_signatures():
    lines = FROZEN.read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", variants.available())
def test_signatures_are_as_promised(name):
    assert not broken(frozen_signatures(), signatures(variants.load(name)))


def test_every_function_is_frozen():
    assert frozen_signatures().keys() == signatures(variants.core).keys()


def test_the_check_finds_what_would_break_a_caller():
    now = signatures(variants.core)
    promised = frozen_signatures()
    assert len(promised) >= 10
    name = "bce_with_logits_float32"
    assert not broken(promised, {**now, "new": "int (void)"})
    missing = {key: signature for key, signature in now.items() if key != name}
    assert [line.partition(":")[0] for line in broken(promised, missing)] == [name]
    for old, new in [("float const", "double const"), ("int (", "void ("), (", double *)", ")")]:
        changed = {**now, name: now[name].replace(old, new, 1)}
        assert changed != now
        assert [line.partition(":")[0] for line in broken(promised, changed)] == [name]


# cimport ------------------------------------------------------------------------------------------

PROBE = """
# cython: language_level=3
from libc.stdint cimport int64_t
cimport fastce._core as c

def statuses():
    return [c.FASTCE_OK, c.FASTCE_BAD_LABEL, c.FASTCE_NO_MEMORY, c.FASTCE_BAD_TARGET,
            c.FASTCE_BAD_ARGUMENT]

def addresses():
    return {ADDRESSES}

def without_gil(double[:, ::1] z, int64_t[::1] y, double[:, ::1] grad):
    cdef double total
    cdef int status
    with nogil:
        status = c.softmax_cross_entropy_float64(
            &z[0, 0], z.shape[0], z.shape[1], z.strides[0], z.strides[1],
            &y[0], False, 0, NULL, NULL, 0.0, 0.0,
            1.0, &grad[0, 0], grad.strides[0], grad.strides[1], NULL, &total)
    return status, total
"""

USE = """
import sys
import numpy as np
import probe  # it imports fastce
import fastce, fastce._core
from fastce._call import variants
from c_functions import *

assert variants.selected == sys.argv[1]
assert fastce._core is sys.modules["fastce._core"] is variants.core
for name, capsule in variants.core.__pyx_capi__.items():
    assert probe.addresses()[name] == capsule_pointer(capsule, capsule_name(capsule))
assert probe.statuses() == [OK, BAD_LABEL, NO_MEMORY, BAD_TARGET, BAD_ARGUMENT]
z, y, grad = np.arange(12.0).reshape(4, 3), np.array([0, 1, 2, 0]), np.empty((4, 3))
loss, expected = fastce.softmax_cross_entropy(z, y, reduction="sum")
assert probe.without_gil(z, y, grad) == (0, loss)
assert (grad == expected).all()
"""


def build_probe(directory):
    addresses = ", ".join(f"'{name}': <size_t> <void*> c.{name}" for name in frozen_signatures())
    (directory / "probe.pyx").write_text(PROBE.replace("ADDRESSES", addresses), encoding="utf-8")
    (directory / "setup.py").write_text(
        "import pathlib, fastce, setuptools\nfrom Cython.Build import cythonize\n"
        "path = pathlib.Path(fastce.__file__).parents[1]\n"
        "setuptools.setup(ext_modules=cythonize('probe.pyx', include_path=[str(path)]))\n"
    )
    run("setup.py", "-q", "build_ext", "--inplace", directory=directory)


def run(*arguments, directory, **environment):
    paths = os.pathsep.join([str(directory), *sys.path])
    printed_by(sys.executable, *arguments, directory=directory, PYTHONPATH=paths, **environment)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    directory = tmp_path_factory.mktemp("probe")
    build_probe(directory)
    return directory


@pytest.mark.parametrize("variant", variants.available())
def test_cimport_takes_the_variant_in_use(probe, variant):
    run("-c", USE, variant, directory=probe, FASTCE_ISA=variant)
