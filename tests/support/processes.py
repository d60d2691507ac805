"""Python in a process of its own, which imports the package under test."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import fastce

ROOT = str(Path(fastce.__file__).parents[1])
SUPPORT = Path(__file__).parent  # programs that tests run are there


def script(code, **environment):
    """Start Python in a process of its own, which imports this very package."""
    path = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(code, *, timeout=120, quiet=False, **environment):
    """Return the words that the code prints; `quiet`: it may print nothing on standard error."""
    with script(code, **environment) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, err
    assert not (quiet and err), err
    return out.split()
