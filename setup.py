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
    str(path) for suffix in ("hpp", "pxd", "pxi") for path in Path("fastce").rglob(f"*.{suffix}")
]

X86 = platform.machine().lower() in ("x86_64", "amd64")

if sys.platform == "win32":
    FLAGS = ["/std:c++17", "/O2", "/fp:precise"]
    MACROS: list[tuple[str, str | None]] = []
    INSTRUCTION_SETS: dict[str, list[str]] = {"_core": []}
else:
    # Errno and traps are the only parts of IEEE arithmetic that the kernels do without: -ffast-math
    # would break NaN, and the rounding trick of exp. Unrolling takes 10 % off the softmax loops.
    FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math"]
    FLAGS += ["-fvisibility=hidden", "-g0"]
    if platform.system() != "Darwin":
        FLAGS.append("-Wno-psabi")  # of vectors as arguments: all such functions are inlined
        # What shall be inlined says so. A pass over a row with all else that a row needs in one
        # function has no registers left: 1024 x 32000 took 0.53 ns an element, for 0.50.
        FLAGS += ["-fno-inline-functions-called-once", "-fno-inline-functions"]
        FLAGS.append("-fno-inline-small-functions")
    # A formula that is called for every vector must not become a function call: focal loss took
    # 1.4 times as long where GCC decided so.
    MACROS = [("CYTHON_INLINE", "inline __attribute__((always_inline))")]
    INSTRUCTION_SETS = {"_core": []}
    if X86:
        avx2 = ["-mavx2", "-mfma", "-mf16c"]
        avx512 = ["-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl"]
        INSTRUCTION_SETS["_core_avx2"] = avx2
        INSTRUCTION_SETS["_core_avx512"] = [*avx2, *avx512, "-mprefer-vector-width=512"]
        # GCC warns of its own header, hundreds of times: what is undefined there is meant so.
        INSTRUCTION_SETS["_core_avx512"] += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]
        if os.environ.get("FASTCE_BUILD_TEST_VARIANTS"):
            # For tests: 16 lanes without AVX-512, and no vector extension at all.
            INSTRUCTION_SETS["_core_wide"] = [*avx2, "-DFASTCE_VECTOR_BYTES=64"]
            INSTRUCTION_SETS["_core_scalar"] = ["-DFASTCE_VECTOR_BYTES=0"]

# For development: FASTCE_BUILD_ONLY=_core,_core_avx2 builds no others (the baseline is always
# needed); FASTCE_SANITIZE=address,undefined (or thread) builds them with a sanitizer.
ONLY = os.environ.get("FASTCE_BUILD_ONLY")
if ONLY:
    INSTRUCTION_SETS = {name: INSTRUCTION_SETS[name] for name in ONLY.split(",")}
SANITIZE = os.environ.get("FASTCE_SANITIZE")
LINK_FLAGS = [f"-fsanitize={SANITIZE}"] if SANITIZE else []
if SANITIZE:
    FLAGS = [flag for flag in FLAGS if flag not in ("-O3", "-g0")]
    FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
    FLAGS += ["-fno-sanitize-recover=all"]


def extension(name: str, flags: list[str]) -> Extension:
    """One variant. cythonize keeps flags by source, so each has a call and a folder of its own."""
    (module,) = cythonize(
        [Extension(f"fastce.{name}", [SOURCE], depends=DEPENDS, language="c++")],
        build_dir=f"build/cython/{name}",
        compiler_directives={"language_level": 3},
        quiet=True,
    )
    module.extra_compile_args = FLAGS + flags
    module.include_dirs = [numpy.get_include(), "fastce/_simd"]
    module.extra_link_args = LINK_FLAGS
    module.define_macros = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), *MACROS]
    return module


PARALLEL = {"build_ext": {"parallel": True}}  # as many compilers as there are processors
MODULES = [extension(name, flags) for name, flags in INSTRUCTION_SETS.items()]
setup(ext_modules=MODULES, options=PARALLEL)
