"""What setup.py builds for each target platform, which need not be the machine's own."""

import platform
import sysconfig
from pathlib import Path

import pytest
from scripts import load

pytest.importorskip("Cython")  # setup.py imports it
Distribution = pytest.importorskip("setuptools").Distribution

SETUP = Path(__file__).resolve().parent.parent / "setup.py"
X86 = {"_core", "_core_avx2", "_core_avx512"}


def setup_for(monkeypatch, built_for, machine):
    """Run setup.py as if on this machine, for that platform."""
    monkeypatch.setattr(sysconfig, "get_platform", lambda: built_for)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    variables = "FASTCE_BUILD_TEST_VARIANTS", "FASTCE_BUILD_ONLY"
    for name in (*variables, "ARCHFLAGS", "_PYTHON_HOST_PLATFORM"):
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


@pytest.mark.parametrize(("machine", "version"), [("x86_64", "10.13"), ("arm64", "11.0")])
def test_a_universal_python_builds_for_the_machine_alone(machine, version, monkeypatch):
    """Python's own flags name both architectures, and Clang refuses `-mavx2` for Arm."""
    setup = setup_for(monkeypatch, "macosx-10.13-universal2", machine)
    assert setup.os.environ["ARCHFLAGS"] == f"-arch {machine}"
    assert (
        setup.os.environ["_PYTHON_HOST_PLATFORM"] == f"macosx-{version}-{machine}"
    )  # of the wheel


@pytest.mark.parametrize("only", ["_core_avx2", "_core,", "_core,_core_wide", "core"])
def test_modules_that_cannot_be_built(only, monkeypatch):
    setup = setup_for(monkeypatch, "linux-x86_64", "x86_64")
    monkeypatch.setenv("FASTCE_BUILD_ONLY", only)
    with pytest.raises(SystemExit, match="must be _core and others of _core, _core_avx2, _core_av"):
        setup.instruction_sets()
    monkeypatch.setenv("FASTCE_BUILD_ONLY", "_core, _core_avx2")
    assert list(setup.instruction_sets()) == ["_core", "_core_avx2"]


def test_modules_of_an_earlier_build_are_removed(tmp_path, monkeypatch):
    setup = setup_for(monkeypatch, "linux-x86_64", "x86_64")
    monkeypatch.chdir(tmp_path)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    files = [f"{name}{suffix}" for name in ("_core", "_core_avx2", "_core_wide")] + ["_core.pyx"]
    for folder in ("build/fastce", "fastce"):
        Path(folder).mkdir(parents=True)
        for name in files:
            Path(folder, name).touch()
    build = setup.Build(Distribution())
    build.build_lib, build.inplace = "build", False
    build.remove_other_modules()
    assert {path.name for path in Path("build/fastce").iterdir()} == {*files} - {files[2]}
    assert {path.name for path in Path("fastce").iterdir()} == {*files}
    build.inplace = True
    build.remove_other_modules()
    assert {path.name for path in Path("fastce").iterdir()} == {*files} - {files[2]}


@pytest.mark.parametrize("kind", ["gcc", "clang", "clang-cl"])
def test_fast_math_is_undone(kind, monkeypatch):
    """Even if CXXFLAGS has it, which comes before these flags."""
    setup = setup_for(monkeypatch, "win-amd64", "AMD64")
    flags = [flag.removeprefix("/clang:") for flag in setup.flags_of_compiler(kind)]
    assert {"-fno-fast-math", "-fno-unsafe-math-optimizations"} <= {*flags}


def test_flags_that_clang_cl_would_ignore_are_passed_on(monkeypatch):
    flags = setup_for(monkeypatch, "win-amd64", "AMD64").flags_of_compiler("clang-cl")
    assert "/clang:-ffp-contract=off" in flags
    assert not [flag for flag in flags if flag.startswith("-f")]


@pytest.mark.parametrize(
    ("built_for", "target"),
    [("win-amd64", "x86_64-pc-windows-msvc"), ("win-arm64", "arm64-pc-windows-msvc")],
)
def test_clang_for_another_processor_is_told_the_target(built_for, target, monkeypatch):
    """Without it, LLVM for x86-64 on Windows for Arm compiles for x86-64."""
    flags = setup_for(monkeypatch, built_for, "ARM64").flags_of_compiler("clang-cl")
    assert f"--target={target}" in flags
