"""The configuration in use, for bug reports and benchmarks."""

import platform

import numpy as np

from fastce._call import variants
from fastce._call.threads import get_num_threads
from fastce._call.version import __version__


def show_config() -> None:
    """Print the version, the variant of the kernels and the number of threads in use.

    ``python -m fastce`` does the same.

    Examples
    --------
    >>> import fastce
    >>> fastce.show_config()  # doctest: +ELLIPSIS
    fastce            ...
    instruction set   ...
    """
    # The vector extension of the baseline, which every processor of the architecture has.
    extension = {"x86_64": "SSE2, ", "amd64": "SSE2, ", "aarch64": "NEON, ", "arm64": "NEON, "}
    vectors = variants.selected == "baseline" and variants.core.LANES > 1
    named = extension.get(platform.machine().lower(), "") if vectors else ""
    lines = {
        "fastce": __version__,
        "instruction set": f"{variants.selected} ({named}{variants.core.LANES} float32 per vector)",
        "available": ", ".join(variants.available()),
        "threads": str(get_num_threads()),
        "compiler": variants.core.COMPILER,
        "numpy": np.__version__,
        "python": f"{platform.python_version()} on {platform.machine()}",
    }
    for name, value in lines.items():
        print(f"{name:<18}{value}")
