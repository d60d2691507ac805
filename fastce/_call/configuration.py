"""What is in use: for bug reports, and for the head of a benchmark."""

import platform

import numpy as np

from fastce._call import variants
from fastce._call.threads import get_num_threads
from fastce._version import __version__


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
    lines = {
        "fastce": __version__,
        "instruction set": f"{variants.selected} ({variants.core.LANES} float32 a vector)",
        "available": ", ".join(variants.available()),
        "threads": str(get_num_threads()),
        "compiler": variants.core.COMPILER,
        "numpy": np.__version__,
        "python": f"{platform.python_version()} on {platform.machine()}",
    }
    for name, value in lines.items():
        print(f"{name:<18}{value}")
