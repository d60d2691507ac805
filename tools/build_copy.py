"""Copies the source tree and builds the copy, with other flags or with fewer variants.

What breaks or instruments the kernels on purpose never does it in the checkout.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("fastce", "tests", "bench", "docs", "examples", "tools")  # tests import from all of them
PARTS = (*FOLDERS, "setup.py", "pyproject.toml", "CONTRIBUTING.md", "README.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", ".hypothesis", "_build")

# An editable install finds what the copy has not built in the checkout: kernels that are not
# broken, or have no sanitizer.
NO_OTHER_COPY = """\
import sys

sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != "_EditableFinder"]
"""


def import_setup() -> ModuleType:
    """Import setup.py, for the flags of compilers and of instruction sets."""
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_tree(to: Path) -> None:
    """Copy what is needed to build the package and to run its tests."""
    to.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, to / part, ignore=LEFT_OUT, dirs_exist_ok=True)
        else:
            shutil.copy2(source, to / part)
    (to / "sitecustomize.py").write_text(NO_OTHER_COPY, "utf-8")


def environment(tree: Path) -> dict[str, str]:
    """Make processes import the copy, whatever is installed."""
    return {**os.environ, "PYTHONPATH": str(tree), "FASTCE_ISA": ""}


def build(
    tree: Path,
    variants: Sequence[str] = (),
    flags: Sequence[str] = (),
    **more: str,
) -> str:
    """Build these variants in place, or all, with these flags after setup.py's own.

    Return what the compiler said: that ends the process if it fails.
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
        env={**os.environ, **wanted},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the build in {tree} failed:\n{done.stdout}\n{done.stderr}")
    return done.stderr
