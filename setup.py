"""Builds the kernels once for each instruction set, from one source."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import Cython
import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError
from setuptools.modified import newer_group

SOURCE = "fastce/_core.pyx"
# Everything that a module is made of: an edited header must rebuild it.
DEPENDS = [
    str(path) for suffix in ("hpp", "pxd", "pxi") for path in Path("fastce").rglob(f"*.{suffix}")
]
# The platform that is built for. A Mac with an Arm processor can build for x86-64.
PLATFORM = sysconfig.get_platform()
if PLATFORM.endswith("universal2"):
    # Python's own flags would build for both architectures at once, but -mavx2 exists for only one.
    # The wheel is tagged likewise; macOS runs on Arm since version 11.
    machine = platform.machine()
    version = "11.0" if machine == "arm64" else PLATFORM.split("-")[1]
    PLATFORM = os.environ["_PYTHON_HOST_PLATFORM"] = f"macosx-{version}-{machine}"
    os.environ.setdefault("ARCHFLAGS", f"-arch {machine}")
X86 = PLATFORM.endswith(("x86_64", "amd64"))
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl"))]
# The linker needs them, too: GCC's start-up code for -ffast-math flushes subnormal numbers to 0.
IEEE_754 = ["-fno-fast-math", "-fno-unsafe-math-optimizations"]

NO_COMPILER = """
fastce is compiled from C++17, but no C++ compiler was found ({problem}). To install one:
  Debian, Ubuntu: apt install g++ python3-dev      Fedora: dnf install gcc-c++ python3-devel
  macOS: xcode-select --install      Windows: "Desktop development with C++" of Visual Studio
"""
SLOW = "fastce: kernels from MSVC have no vectors and are 4 times slower: set CXX=clang-cl."


def kind_of_compiler(compiler) -> str:
    """gcc, clang, clang-cl or msvc, from its output and not its name: on macOS, gcc is clang."""
    if compiler.compiler_type == "msvc":
        return "clang-cl" if "clang" in Path(os.environ.get("CXX", "cl")).stem else "msvc"
    command = [*compiler.compiler_cxx, "--version"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "clang" if "clang" in text.lower() else "gcc"


def flags_of_compiler(kind: str) -> list[str]:
    if kind == "msvc":
        return ["/std:c++17", "/O2", "/fp:precise"]
    # The kernels do without errno and floating-point traps, and need everything else in IEEE 754:
    # -ffast-math, perhaps from CXXFLAGS, would break NaN and the rounding trick of exp. Only an
    # explicit fma (simd.hpp) is fused, so that bits do not depend on the compiler.
    flags = [*IEEE_754, "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
    # No warnings about vectors as arguments, as all such functions are inlined, nor about functions
    # that Cython generates.
    flags += ["-Wno-psabi", "-Wno-unused-function"]
    if kind == "clang-cl":
        # Without a target, LLVM for x86-64 would build for x86-64 when it runs on Arm.
        target = {"win-amd64": "x86_64", "win-arm64": "arm64", "win32": "i686"}[PLATFORM]
        flags = [f"/clang:{x}" if x.startswith("-f") else x for x in flags]  # else ignored
        return ["/std:c++17", "/clang:-O3", f"--target={target}-pc-windows-msvc", *flags]
    # No -funroll-loops: the modules grow by half, and no softmax loop becomes faster.
    flags += ["-std=c++17", "-O3", "-fvisibility=hidden", "-g0"]
    # Otherwise, the speed of a loop depends on the code before it: 4 million elements of BCE took
    # 2.2 or 1.95 ms (python -m bench). LLVM cannot align loops for Windows on Arm.
    flags += ["-falign-functions=64", "-falign-loops=32"]
    if kind == "gcc":
        # Inline only what is marked so: a loop that shares a function with the other steps of a row
        # has too few registers. Clang would then also export functions of the standard library.
        flags += ["-fno-inline-functions-called-once", "-fno-inline-functions"]
        flags.append("-fno-inline-small-functions")
    return flags


def instruction_sets() -> dict[str, list[str]]:
    """Return the modules to build and the flags of each."""
    modules: dict[str, list[str]] = {"_core": []}
    if X86:
        modules["_core_avx2"] = AVX2
        modules["_core_avx512"] = [*AVX512, "-mprefer-vector-width=512"]
        if os.environ.get("FASTCE_BUILD_TEST_VARIANTS"):
            # For tests: 16 lanes without AVX-512, and no vector extension at all.
            modules["_core_wide"] = [*AVX2, "-DFASTCE_VECTOR_BYTES=64"]
            modules["_core_scalar"] = ["-DFASTCE_VECTOR_BYTES=0"]
    # For development: FASTCE_BUILD_ONLY=_core,_core_avx2 builds these modules only. The package
    # needs _core.
    only = os.environ.get("FASTCE_BUILD_ONLY")
    if not only:
        return modules
    chosen = [name.strip() for name in only.split(",")]
    if "_core" not in chosen or not set(chosen) <= set(modules):
        accepted = ", ".join(modules)
        raise SystemExit(f"FASTCE_BUILD_ONLY must be _core and others of {accepted}, got {only!r}")
    return {name: modules[name] for name in chosen}


INSTRUCTION_SETS = instruction_sets()


def extension(name: str) -> Extension:
    return Extension(
        f"fastce.{name}",
        [SOURCE],
        depends=DEPENDS,
        language="c++",
        include_dirs=[numpy.get_include(), "fastce/_simd"],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    )


def translate(output: Path, options: Sequence[str] = ()) -> None:
    """Translate the kernels to C++, as the module fastce._core."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part.cpp")  # so that what is cut short is not used later
    command = [sys.executable, "-m", "cython", "-3", "--cplus", "--module-name", "fastce._core"]
    subprocess.run([*command, *options, "-o", str(part), SOURCE], check=True)
    part.replace(output)


class Build(build_ext):
    """Identifies the compiler, and gives each module flags that this compiler knows."""

    def build_extensions(self) -> None:
        self.check_compiler()
        kind = kind_of_compiler(self.compiler)
        if kind == "msvc":
            print(SLOW)
            self.extensions = [x for x in self.extensions if x.name == "fastce._core"]
        elif kind == "clang-cl":
            self.compiler.initialize()
            self.compiler.cc = shutil.which(os.environ["CXX"]) or os.environ["CXX"]
        count = len(self.extensions)
        print(f"fastce: compiling {count} modules takes one to two minutes", flush=True)
        self.remove_other_modules()
        translated = Path("build", f"cython-{Cython.__version__}", "_core.cpp")
        if self.force or newer_group([SOURCE, *DEPENDS], str(translated)):
            # With line numbers of our sources for the reports of sanitizers.
            translate(translated, ["--line-directives"] if "FASTCE_FLAGS" in os.environ else [])
        flags = flags_of_compiler(kind)
        more = os.environ.get("FASTCE_FLAGS", "").split()  # such as those of a sanitizer
        for module in self.extensions:
            # The same code for each module. Only the function that Python looks up has its name.
            name = module.name.partition(".")[2]
            source = translated.with_name(f"{name}_module.cpp")
            lines = f"#define PyInit__core PyInit_{name}", f'#include "{translated.name}"', ""
            source.write_text("\n".join(lines), "utf-8")
            module.sources = [str(source)]
            module.extra_compile_args = flags + INSTRUCTION_SETS[name]
            if kind == "gcc" and name == "_core_avx512":
                # GCC warns hundreds of times about vectors that its own header leaves undefined.
                module.extra_compile_args += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]
            module.extra_compile_args += more
            if kind in ("gcc", "clang"):
                module.extra_link_args = IEEE_754
            if kind != "msvc":
                # A formula must not become a function call for every vector: focal loss took 1.4
                # times as long when GCC decided against inlining.
                inline = "inline __attribute__((always_inline))"
                module.define_macros.append(("CYTHON_INLINE", inline))
        super().build_extensions()

    def remove_other_modules(self) -> None:
        """Remove what an earlier build left and this one does not replace: it would be imported."""
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        for folder in [Path(self.build_lib, "fastce"), *([Path("fastce")] if self.inplace else [])]:
            for path in folder.glob(f"_core*{suffix}"):
                if path.name.removesuffix(suffix) not in INSTRUCTION_SETS:
                    path.unlink()

    def check_compiler(self) -> None:
        """If there is no compiler, say at once what to install, without a traceback."""
        try:
            if self.compiler.compiler_type == "msvc":
                self.compiler.initialize()
            elif not shutil.which(self.compiler.compiler_cxx[0]):
                raise PlatformError(f"there is no {self.compiler.compiler_cxx[0]}")
        except PlatformError as error:
            raise SystemExit(NO_COMPILER.format(problem=error)) from None


if __name__ == "__main__":  # tools import the flags from this file
    setup(
        ext_modules=[extension(name) for name in INSTRUCTION_SETS],
        cmdclass={"build_ext": Build},
        options={"build_ext": {"parallel": True}},  # one compiler for each processor
    )
