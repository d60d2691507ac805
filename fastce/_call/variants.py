"""Chooses the best variant of the kernels for this machine.

The kernels are compiled once per instruction set. The best variant that the processor and the
operating system support is loaded at import and becomes ``fastce._core``, so that ``cimport
fastce._core`` and other users of the C interface bind to it too. The environment variable
FASTCE_ISA selects another one.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

try:
    import fastce._core as _baseline
except ModuleNotFoundError as error:
    if error.name != "fastce._core":
        raise
    folder = Path(__file__).resolve().parent.parent
    raise ImportError(
        f"{folder} has the sources of fastce, but not its compiled modules. Install the package"
        " with `pip install .` and start Python in another folder, or install it with"
        " `pip install --editable .`"
    ) from None
from fastce._call import checks

# In order of preference. The last two are built for tests only: vectors of 64 bytes on AVX2, which
# run the logic of 16 lanes on machines without AVX-512, and no vectors at all.
MODULES = {
    "avx512": "fastce._core_avx512",
    "avx2": "fastce._core_avx2",
    "baseline": "fastce._core",
    "wide": "fastce._core_wide",
    "scalar": "fastce._core_scalar",
}

# The baseline is in every build and runs everywhere. It knows which others the machine supports.
_loaded: dict[str, ModuleType] = {"baseline": _baseline}


def available() -> tuple[str, ...]:
    """Return the names of the variants that were built and are supported, the best one first."""
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
        # Import statements rather than computed names, so that PyInstaller finds the modules.
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
    """Use the variant ``name`` for all further calls."""
    global core, selected
    core = load(name)
    selected = name
    sys.modules["fastce._core"] = core
    vars(sys.modules["fastce"])["_core"] = core  # where `import fastce._core as core` looks


@contextmanager
def using(name: str) -> Iterator[ModuleType]:
    """Run a block of code with the variant ``name``."""
    before = selected
    use(name)
    try:
        yield core
    finally:
        use(before)


core: ModuleType = _baseline
selected: str = "baseline"
use(os.environ.get("FASTCE_ISA") or available()[0])
