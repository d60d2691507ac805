"""Picks the variant of the kernels that this machine runs best.

The kernels are compiled once an instruction set. The best variant that the processor and the
operating system support is loaded at import and takes the name ``fastce._core``, so that
``cimport fastce._core`` in other Cython code, and whoever looks for the functions of the C
interface in it, bind to it too. The environment variable FASTCE_ISA names another one.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import fastce._core as _baseline
from fastce._call import checks

# From the most to the least wanted. The last two are built for tests alone: vectors of 64 bytes on
# AVX2, so that the logic of 16 lanes runs on machines without AVX-512, and no vectors at all.
MODULES = {
    "avx512": "fastce._core_avx512",
    "avx2": "fastce._core_avx2",
    "baseline": "fastce._core",
    "wide": "fastce._core_wide",
    "scalar": "fastce._core_scalar",
}

# The baseline is in every build and runs everywhere: it says what else may be loaded.
_loaded: dict[str, ModuleType] = {"baseline": _baseline}


def available() -> tuple[str, ...]:
    """Name the variants that were built and that this machine supports, the best one first."""
    supported = _baseline.supported()
    return tuple(
        name
        for name, module in MODULES.items()
        if name in supported and importlib.util.find_spec(module) is not None
    )


def load(name: str) -> ModuleType:
    """Import the variant ``name``, which the machine must support."""
    if name not in _loaded:
        checks.instruction_set(name, available())
        # Statements, not names that are put together: PyInstaller and its like look for them.
        if name == "avx512":
            import fastce._core_avx512 as module
        elif name == "avx2":
            import fastce._core_avx2 as module
        elif name == "wide":
            import fastce._core_wide as module
        else:
            import fastce._core_scalar as module
        _loaded[name] = module
    return _loaded[name]


def use(name: str) -> None:
    """Make ``name`` the variant that all calls from now on run in."""
    global core, selected
    core = load(name)
    selected = name
    sys.modules["fastce._core"] = core
    vars(sys.modules["fastce"])["_core"] = core  # where `import fastce._core as core` looks


@contextmanager
def using(name: str) -> Iterator[ModuleType]:
    """Run a block of code, a test say, in the variant ``name``."""
    before = selected
    use(name)
    try:
        yield core
    finally:
        use(before)


core: ModuleType = _baseline
selected: str = "baseline"
use(os.environ.get("FASTCE_ISA") or available()[0])
