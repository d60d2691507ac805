"""Copies the source tree and builds the copy, with other flags or with fewer variants.

Tools that break or instrument the kernels on purpose work on such a copy, never on the checkout.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("fastce", "tests", "bench", "docs", "examples", "tools")  # tests import from all of them
PARTS = (*FOLDERS, "setup.py", "pyproject.toml", "CONTRIBUTING.md", "README.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", ".hypothesis", "_build")

# Through an editable install, modules that the copy lacks would be found in the checkout: kernels
# without the planted fault, or without the sanitizer.
NO_OTHER_COPY = """\
import sys

sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != "_EditableFinder"]
"""


PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
# The macros that setup.py defines in addition to its flags.
DEFINES = (
    "-DCYTHON_INLINE=inline __attribute__((always_inline))",
    "-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION",
)


def import_setup() -> ModuleType:
    """Import setup.py, for the flags of compilers and of instruction sets."""
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def need(*tools: str) -> None:
    """Exit if one of these tools is missing."""
    for tool in tools:
        if not shutil.which(tool):
            raise SystemExit(f"there is no {tool}")


@contextmanager
def temporary_copy(purpose: str) -> Iterator[Path]:
    """Yield a copy of what is needed to build the package and to run its tests.

    Its parent folder is otherwise empty, and is removed with it.
    """
    with tempfile.TemporaryDirectory(prefix=f"fastce-{purpose}-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, tree / part, ignore=LEFT_OUT)
            else:
                shutil.copy2(source, tree / part)
        (tree / "sitecustomize.py").write_text(NO_OTHER_COPY, "utf-8")
        yield tree


def run_in(
    tree: Path, command: Sequence[str], environment: Mapping[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command whose Python imports the copy, whatever is installed."""
    own = {"PYTHONPATH": str(tree), "FASTCE_ISA": ""}
    everything = {**os.environ, **own, **environment}
    return subprocess.run(command, cwd=tree, env=everything, text=True, **options)


def build(
    tree: Path,
    variants: Sequence[str] = (),
    flags: Sequence[str] = (),
    **more: str,
) -> str:
    """Build these variants (default: all) in place, with these flags after setup.py's own.

    Return the output of the compiler. If the build fails, end the process with it.
    """
    wanted = {
        "FASTCE_BUILD_TEST_VARIANTS": "1",
        "FASTCE_BUILD_ONLY": ",".join(variants),
        "FASTCE_FLAGS": " ".join(flags),
        **more,
    }
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env=os.environ | wanted,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"the build in {tree} failed:\n{done.stdout}\n{done.stderr}")
    return done.stderr
