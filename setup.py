"""Builds the kernels once for each instruction set, from one source."""

import os
import platform
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCE = "fastce/_core.pyx"
# Everything that a module is made of: an edited header must rebuild it.
DEPENDS = [
    str(path) for suffix in ("hpp", "pxd", "pxi") for path in Path("fastce").glob(f"*.{suffix}")
]

if sys.platform == "win32":
    FLAGS = ["/std:c++17", "/O2", "/fp:precise"]
    INSTRUCTION_SETS: dict[str, list[str]] = {"_core": []}
else:
    # Errno and traps are the only parts of IEEE arithmetic that the kernels do without: -ffast-math
    # would break NaN, and the rounding trick of exp.
    FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden"]
    FLAGS += ["-fno-math-errno", "-fno-trapping-math"]
    if platform.system() != "Darwin":
        FLAGS.append("-Wno-psabi")  # of vectors as arguments: all such functions are inlined
    INSTRUCTION_SETS = {"_core": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        avx2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mmovbe"]
        avx512 = ["-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl"]
        INSTRUCTION_SETS["_core_avx2"] = avx2
        INSTRUCTION_SETS["_core_avx512"] = [*avx2, *avx512, "-mprefer-vector-width=512"]
        if os.environ.get("FASTCE_BUILD_TEST_VARIANTS"):
            # For tests: 16 lanes without AVX-512, and no vector extension at all.
            INSTRUCTION_SETS["_core_wide"] = [*avx2, "-DFASTCE_VECTOR_BYTES=64"]
            INSTRUCTION_SETS["_core_scalar"] = ["-DFASTCE_VECTOR_BYTES=0"]


def extension(name: str, flags: list[str]) -> Extension:
    """One variant. cythonize keeps flags by source, so each has a call and a folder of its own."""
    (module,) = cythonize(
        [Extension(f"fastce.{name}", [SOURCE], depends=DEPENDS, language="c++")],
        build_dir=f"build/cython/{name}",
        compiler_directives={"language_level": 3},
        quiet=True,
    )
    module.extra_compile_args = FLAGS + flags
    module.include_dirs = [numpy.get_include(), "fastce"]
    module.define_macros = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
    return module


setup(ext_modules=[extension(name, flags) for name, flags in INSTRUCTION_SETS.items()])
