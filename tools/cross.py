"""Compile the kernels to objects for systems that are not at hand, with the Clang of `ziglang`.

Nothing is linked or run, and Python's headers are the host's: that the code compiles for each
system and instruction set, without a warning from the headers, is all that this shows.
"""

import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension

ROOT = Path(__file__).resolve().parents[1]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl"))]
TARGETS = {
    "aarch64-macos": [[]],
    "x86_64-macos": [[], AVX2, AVX512],
    "aarch64-linux-gnu": [[]],
    "aarch64-linux-musl": [[]],
    "x86_64-linux-musl": [[], AVX2, AVX512],
    "x86_64-windows-gnu": [[], AVX2, AVX512],
    "aarch64-windows-gnu": [[]],
}
FLAGS = [
    *("-std=c++17", "-O1", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Wno-unused-function", "-Wno-psabi", "-fvisibility=hidden"),
    "-DCYTHON_INLINE=inline __attribute__((always_inline))",
    "-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION",
]
# What the host's configuration of Python and NumPy says, and these systems do not have. Windows has
# 32 bits of long and 16 of wchar_t.
MACOS = "#include <machine/endian.h>\n"
WINDOWS = """#include <pyconfig.h>
#undef SIZEOF_LONG
#define SIZEOF_LONG 4
#undef SIZEOF_WCHAR_T
#define SIZEOF_WCHAR_T 2
#undef HAVE_PTHREAD_H
#undef HAVE_SYS_SELECT_H
#undef HAVE_SYS_TIME_H
#undef HAVE_CLOCK_GETTIME
"""


def compile_for(target: str, flags: list[str], source: Path, folder: Path) -> str:
    """Return what is wrong with it, or nothing."""
    include = [folder / "macos"] if "macos" in target else []
    include += [sysconfig.get_path("include"), numpy.get_include(), ROOT / "fastce"]
    command = [sys.executable, "-m", "ziglang", "c++", "-target", target, *FLAGS, *flags]
    command += [f"-I{path}" for path in include]
    if "windows" in target:
        command += ["-include", str(folder / "python_on_windows.h")]
    command += ["-c", str(source), "-o", str(folder / f"{target}{len(flags)}.o")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = run.stderr.splitlines()
    wrong = [line for line in lines if "error:" in line or ("simd" in line and "warning:" in line)]
    if run.returncode and not wrong:
        wrong = lines[-3:]
    return "\n".join(wrong[:5])


def main() -> None:
    failed = False
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        folder = Path(name)
        (folder / "macos").mkdir()
        (folder / "macos" / "endian.h").write_text(MACOS)
        (folder / "python_on_windows.h").write_text(WINDOWS)
        headers = [str(path) for path in Path("fastce").rglob("*.hpp")]  # copied beside the source
        source = ["fastce/_core.pyx"]
        extension = Extension("fastce._core", source, depends=headers, language="c++")
        cythonize([extension], build_dir=str(folder), quiet=True)
        source = folder / "fastce" / "_core.cpp"
        chosen = sys.argv[1:] or list(TARGETS)
        jobs = [(target, flags) for target in chosen for flags in TARGETS[target]]
        results = pool.map(lambda job: compile_for(*job, source, folder), jobs)
        for (target, flags), wrong in zip(jobs, results, strict=True):
            failed |= bool(wrong)
            print(target, *flags[-1:], wrong or "compiles", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
