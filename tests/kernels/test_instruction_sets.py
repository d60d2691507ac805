"""Each variant is compiled for its instruction set, as its machine code shows.

A module that is to run on any x86-64 processor must hold no newer instruction, whatever the
compiler was told for its neighbours; and a module for newer processors must make use of them.
"""

import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from importlib.machinery import PathFinder

import pytest

import fastce
from fastce._call import variants

# Found in the package's folder: sys.modules has the variant in use under the baseline's name.
FILES = {
    name: spec.origin
    for name, module in variants.MODULES.items()
    if (spec := PathFinder.find_spec(module, fastce.__path__)) is not None
}
FOR_TESTS = ("wide", "scalar")

# Instructions of x86-64 that are newer than SSE2, as far as compilers emit them.
SINCE_SSE2 = re.compile(
    r"""add?subp[sd]|h(add|sub)p[sd]|mov(d|sh|sl)dup|lddqu                             # SSE3
    |pabs[bwd]|palignr|pshufb|ph(add|sub)(s?w|d)|pmaddubsw|pmulhrsw|psign[bwd]        # SSSE3
    |p?blendv?(p[sd]|b|w)|dpp[sd]|extractps|insertps|movntdqa|mpsadbw|packusdw        # SSE4
    |pcmp(eq|gt)q|pextr[bdq]|phminposuw|pinsr[bdq]|p(max|min)(sb|sd|uw|ud)
    |pmov[sz]x\w\w|pmul(dq|ld)|ptest|round[ps][sd]|crc32\w?|pcmp[ei]str[im]|popcnt
    |andn|bextr|blsi|blsmsk|blsr|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|lzcnt|movbe  # AVX2's time
    |v[a-z]\w*|k(add|and|mov|not|or|ortest|shift|test|unpck|xnor|xor)\w*              # VEX, EVEX
    """,
    re.VERBOSE,
)

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64") or platform.system() != "Linux",
    reason="the variants are of x86-64, and objdump is Linux's",
)


def objdump(*arguments):
    command = [shutil.which("objdump"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@cache
def instructions(name):
    """Count the mnemonics of a variant's machine code, and the registers by their kind."""
    counts = Counter()
    for line in objdump("--disassemble", "--no-show-raw-insn", FILES[name]):
        _, tab, text = line.partition(":\t")
        if tab and text.strip():
            counts[text.split()[0]] += 1
            counts.update(set(re.findall(r"%([xyz]mm|k[0-7]\b)", text)))
    assert counts["ret"] > 50, f"objdump shows no code in {FILES[name]}"
    return counts


needs_objdump = pytest.mark.skipif(
    shutil.which("objdump") is None, reason="objdump, of binutils, is not installed"
)


def newer_than_sse2(counts):
    return {text for text in counts if SINCE_SSE2.fullmatch(text)}


def test_every_variant_was_built():
    expected = set(variants.MODULES)
    if not os.environ.get("FASTCE_BUILD_TEST_VARIANTS"):
        expected -= set(FOR_TESTS)
    assert set(FILES) >= expected


@needs_objdump
@pytest.mark.parametrize("name", [name for name in ("baseline", "scalar") if name in FILES])
def test_what_runs_everywhere_needs_sse2_alone(name):
    counts = instructions(name)
    assert not newer_than_sse2(counts)
    assert counts["xmm"] > 1000
    assert not counts["ymm"] + counts["zmm"]


@needs_objdump
@pytest.mark.parametrize("name", [name for name in ("avx2", "wide") if name in FILES])
def test_avx2_modules_use_avx2_and_nothing_newer(name):
    counts = instructions(name)
    assert counts["ymm"] > 1000
    assert sum(counts[text] for text in counts if text.startswith("vfmadd")) > 100
    assert counts["vcvtph2ps"] or name != "avx2"  # float16 to float32 in hardware
    assert not counts["zmm"]
    assert not [text for text in counts if re.fullmatch(r"k[0-7]", text)]


@needs_objdump
@pytest.mark.skipif("avx512" not in FILES, reason="avx512 was not built")
def test_avx512_module_uses_vectors_of_64_bytes():
    counts = instructions("avx512")
    assert counts["zmm"] > 1000
    assert counts["zmm"] > counts["ymm"]
    assert any(re.fullmatch(r"k[0-7]", text) for text in counts)


@needs_objdump
@pytest.mark.parametrize("name", FILES)
def test_no_function_can_be_taken_from_another_variant(name):
    """The loader may merge symbols of one name: only the module's entry point is exported."""
    defined = [
        line.split()[-1]
        for line in objdump("--dynamic-syms", FILES[name])
        if re.match(r"[0-9a-f]{8,} .* \.", line) and "*UND*" not in line
    ]
    assert defined == [f"PyInit_{variants.MODULES[name].partition('.')[2]}"]


def test_the_check_knows_instructions_apart():
    old = ["addps", "cvtsd2ss", "movaps", "punpcklwd", "xorpd", "rep", "endbr64", "js", "not"]
    new = ["vaddps", "vfmadd213pd", "roundps", "haddpd", "pshufb", "popcnt", "shlx", "kmovw"]
    assert newer_than_sse2(Counter(new)) == set(new)
    assert not newer_than_sse2(Counter(old))
