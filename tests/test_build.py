"""What setup.py builds for each target platform, which need not be the machine's own."""

import platform
import sysconfig
from pathlib import Path

import pytest
from scripts import load

pytest.importorskip("Cython")  # setup.py imports it

SETUP = Path(__file__).resolve().parent.parent / "setup.py"
X86 = {"_core", "_core_avx2", "_core_avx512"}


def setup_for(monkeypatch, built_for, machine):
    """Run setup.py as if on this machine, for that platform."""
    monkeypatch.setattr(sysconfig, "get_platform", lambda: built_for)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for name in ("FASTCE_BUILD_TEST_VARIANTS", "FASTCE_BUILD_ONLY", "ARCHFLAGS"):
        monkeypatch.setenv(name, "")  # so that what is set later is undone as well
        monkeypatch.delenv(name)
    monkeypatch.chdir(SETUP.parent)
    return load(SETUP)


@pytest.mark.parametrize(
    ("built_for", "machine", "modules"),
    [
        ("linux-x86_64", "x86_64", X86),
        ("linux-aarch64", "aarch64", {"_core"}),
        ("macosx-10.9-x86_64", "arm64", X86),  # as cibuildwheel does on a Mac with an Arm processor
        ("macosx-11.0-arm64", "arm64", {"_core"}),
        ("macosx-10.13-universal2", "x86_64", X86),
        ("macosx-10.13-universal2", "arm64", {"_core"}),
        ("win-amd64", "AMD64", X86),
        ("win-arm64", "ARM64", {"_core"}),
        ("win-amd64", "ARM64", X86),  # Python for x86-64, which Windows emulates
    ],
)
def test_modules_are_those_of_the_platform_that_is_built_for(
    built_for, machine, modules, monkeypatch
):
    setup = setup_for(monkeypatch, built_for, machine)
    assert set(setup.INSTRUCTION_SETS) == modules


@pytest.mark.parametrize("machine", ["x86_64", "arm64"])
def test_a_universal_python_builds_for_the_machine_alone(machine, monkeypatch):
    """Python's own flags name both architectures, and Clang refuses `-mavx2` for Arm."""
    setup = setup_for(monkeypatch, "macosx-10.13-universal2", machine)
    assert setup.os.environ["ARCHFLAGS"] == f"-arch {machine}"


@pytest.mark.parametrize(
    ("built_for", "target"),
    [("win-amd64", "x86_64-pc-windows-msvc"), ("win-arm64", "arm64-pc-windows-msvc")],
)
def test_clang_for_another_processor_is_told_the_target(built_for, target, monkeypatch):
    """Without it, LLVM for x86-64 on Windows for Arm compiles for x86-64."""
    flags = setup_for(monkeypatch, built_for, "ARM64").flags_of_compiler("clang-cl")
    assert f"--target={target}" in flags
