"""Cross-compiles the package for 64-bit Arm, and runs tests of the kernels in an emulator.

    python tools/aarch64.py                  the tests below
    python tools/aarch64.py tests/kernels    arguments are passed to pytest

Needs Debian with g++-aarch64-linux-gnu and qemu-user-static. Debian's arm64 Python and wheels for
it are unpacked in a folder for the emulator. Nothing is installed, and root is not needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import build_copy

setup = build_copy.import_setup()

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
PACKAGES = ("python3", "libpython3-dev", "libstdc++6")
WHEELS = ("numpy", "hypothesis", "ml_dtypes", "mpmath", "pytest")
TESTS = [
    *(
        f"tests/kernels/test_{name}.py"
        for name in ("softmax_losses", "sigmoid_losses", "edge_cases", "elementary", "guard_pages")
    ),
    "tests/call/test_layouts.py",
    # This test starts processes, which the emulator does not run.
    "--deselect=tests/kernels/test_guard_pages.py::test_one_element_too_far_is_a_fault",
]


def run(*command: str | Path, **options) -> None:
    subprocess.run([str(word) for word in command], check=True, **options)


def unpack_python(folder: Path) -> Path:
    """Unpack an arm64 Python with its headers; return its root."""
    root, status = folder / "root", folder / "status"
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "archives" / "partial").mkdir(parents=True)
    status.touch()  # lists no package as installed
    apt = ["apt-get", "-qq", "-o", "APT::Architecture=arm64", "-o", "APT::Architectures=arm64"]
    apt += ["-o", f"Dir::State::status={status}", "-o", f"Dir::State::lists={folder}/lists"]
    apt += ["-o", f"Dir::Cache={folder}", "-o", "APT::Sandbox::User=root"]
    run(*apt, "update")
    run(*apt, "install", "--download-only", "--no-install-recommends", *PACKAGES)
    for package in (folder / "archives").glob("*.deb"):
        run("dpkg", "-x", package, root)
    if not (root / "lib").exists():  # in newer releases a link, which none of these packages has
        (root / "lib").symlink_to("usr/lib")
    return root


def main() -> None:
    build_copy.need(COMPILER, EMULATOR)
    os.chdir(build_copy.ROOT)
    with build_copy.temporary_copy("aarch64") as tree:
        folder = tree.parent
        root, wheels = unpack_python(folder), folder / "wheels"
        python = (root / "usr" / "bin" / "python3").readlink().name  # python3.11
        version = python.removeprefix("python")
        digits = version.replace(".", "")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        pip += ["--target", str(wheels), "--only-binary=:all:", "--python-version", version]
        for system in ("manylinux_2_17", "manylinux2014", "manylinux_2_27", "manylinux_2_28"):
            pip += ["--platform", f"{system}_aarch64"]
        run(*pip, *WHEELS)

        source = folder / "_core.cpp"
        setup.translate(source)
        include = [wheels / "numpy" / "_core" / "include", root / "usr" / "include" / python]
        run(
            *(COMPILER, "-shared", "-fPIC", *setup.flags_of_compiler("gcc")),
            *build_copy.DEFINES,
            *(f"-I{path}" for path in (*include, "fastce/_simd")),
            *("-idirafter", root / "usr" / "include"),  # pyconfig.h of the architecture
            source,
            *("-o", tree / "fastce" / f"_core.cpython-{digits}-aarch64-linux-gnu.so"),
        )
        emulated = [EMULATOR, "-L", root, "-E", f"PYTHONPATH={tree}:{wheels}"]
        emulated.append(root / "usr" / "bin" / python)
        run(*emulated, "-m", "fastce", cwd=tree)
        began = time.monotonic()
        arguments = sys.argv[1:] or TESTS
        run(*emulated, *build_copy.PYTEST[1:], *arguments, cwd=tree)
        print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
