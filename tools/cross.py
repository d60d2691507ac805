"""Compiles the kernels to objects for other systems, with the Clang of `ziglang`.

    python tools/cross.py                  for all of them
    python tools/cross.py aarch64-macos    for one

Nothing is linked or run, and Python's headers are the host's. This shows that the code compiles for
each system and instruction set, with setup.py's flags and without warnings from fastce's headers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import build_copy
import numpy

ROOT = build_copy.ROOT
setup = build_copy.import_setup()

X86, ARM = ([], setup.AVX2, setup.AVX512), ([],)
TARGETS = {
    "aarch64-macos": ARM,
    "x86_64-macos": X86,
    "aarch64-linux-musl": ARM,
    "x86_64-linux-musl": X86,
    "aarch64-windows-gnu": ARM,
    "x86_64-windows-gnu": X86,
}
# -O1 is enough to see that it compiles.
FLAGS = [
    *setup.flags_of_compiler("clang"),
    *("-O1", "-Wall", "-Wextra"),
    *build_copy.DEFINES,
]
# These systems lack some of what the host's configuration of Python and NumPy promises. On Windows,
# long has 32 bits, and wchar_t 16.
ENDIAN = """#ifndef BYTE_ORDER
#define LITTLE_ENDIAN 1234
#define BIG_ENDIAN 4321
#define BYTE_ORDER LITTLE_ENDIAN
#endif
"""
WINDOWS = """#include <pyconfig.h>
#undef SIZEOF_LONG
#define SIZEOF_LONG 4
#undef SIZEOF_WCHAR_T
#define SIZEOF_WCHAR_T 2
#define NT_THREADS
#undef HAVE_PTHREAD_H
#undef HAVE_SYS_SELECT_H
#undef HAVE_SYS_TIME_H
#undef HAVE_CLOCK_GETTIME
"""


def compile_for(target: str, flags: list[str], source: Path, folder: Path) -> str:
    """Return the errors and warnings, or an empty string."""
    include = [] if "linux" in target else [folder / "not_linux"]
    include += [sysconfig.get_path("include"), numpy.get_include(), ROOT / "fastce" / "_simd"]
    # As in setup.py, clang-cl gets no alignment flags.
    common = [x for x in FLAGS if "windows" not in target or not x.startswith("-falign")]
    command = [sys.executable, "-m", "ziglang", "c++", "-target", target, *common, *flags]
    command += [f"-I{path}" for path in include]
    if "windows" in target:
        command += ["-include", str(folder / "python_on_windows.h")]
    command += ["-c", str(source), "-o", str(folder / f"{target}{len(flags)}.o")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = run.stderr.splitlines()
    wrong = [x for x in lines if "error:" in x or ("_simd/" in x and "warning:" in x)]
    if run.returncode and not wrong:
        wrong = lines[-3:]
    return "\n".join(wrong[:5])


def main() -> None:
    failed = False
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        (folder / "not_linux").mkdir()
        (folder / "not_linux" / "endian.h").write_text(ENDIAN, "utf-8")
        (folder / "python_on_windows.h").write_text(WINDOWS, "utf-8")
        source = folder / "_core.cpp"
        setup.translate(source)
        jobs = [(target, flags) for target in sys.argv[1:] or TARGETS for flags in TARGETS[target]]
        results = pool.map(lambda job: compile_for(*job, source, folder), jobs)
        for (target, flags), wrong in zip(jobs, results, strict=True):
            failed |= bool(wrong)
            print(target, *flags[-1:], wrong or "compiles", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
