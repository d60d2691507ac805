"""What a file uses is below it: kernels in the order of their includes, modules by layers."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tools.layers import (
    CORE,
    LAYERS,
    MODULES,
    PACKAGE,
    PICTURE,
    ROOT,
    called_by_core,
    imported_by,
    layer_of,
    picture,
    used_by_reference,
)

KERNELS = PACKAGE / "_kernels"
INCLUDED = re.findall(r'^include "_kernels/(\w+\.pxi)"$', CORE, re.MULTILINE)

# Kernels ------------------------------------------------------------------------------------------


@cache
def code_of(name: str) -> str:
    """The text of a file without strings and comments."""
    text = re.sub(r'"""(?:.|\n)*?"""', '""', (KERNELS / name).read_text(encoding="utf-8"))
    return re.sub(r"#.*", "", re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text))


@cache
def needs_of(name: str) -> list[str]:
    """The files that a file's head names."""
    head = re.match(r"(?:#.*\n)*", (KERNELS / name).read_text(encoding="utf-8"))[0]
    text = re.sub(r"\n# ?", " ", head)
    needs = re.search(r"\bNeeds ((?:\w+\.pxi(?:, )?)+)\.", text)
    return re.findall(r"\w+\.pxi", needs[1]) if needs else []


def reachable(name: str) -> set[str]:
    """What a file needs, directly or indirectly."""
    return set(needs_of(name)).union(*map(reachable, needs_of(name)))


@cache
def defined_in(name: str) -> dict[str, str]:
    """The kind of each name that a file defines: a type, a constant, or a function."""
    kinds = {}
    members = ""  # what indented lines are members of
    for line in code_of(name).splitlines():
        if line[:1] not in ("", " ", ")"):
            members = ""
            if m := re.match(r"c(?:def|typedef) (enum|struct|class|fused)\b *(\w*)", line):
                members = m[1]
                if m[2]:
                    kinds[m[2]] = "type"
            elif m := re.match(r"(?:cdef|def) .*?(\w+)\(", line):
                kinds[m[1]] = "function"
            elif m := re.match(r"(?:cdef .*?)?(\w+) = |cdef .*?(\w+) *$", line):
                kinds[m[1] or m[2]] = "constant"
            else:
                assert re.match(r'@|from |""', line), f"{name}: what does this define? {line}"
        elif members == "enum" and (m := re.match(r"    (\w+)", line)):
            kinds[m[1]] = "constant"
    return kinds


USE = {"type": r"(?:\*| *[\])>(]| +\w|, )", "constant": r"\b", "function": r" *\((?!self)|\["}


def used_by(name: str) -> dict[str, set[str]]:
    """The names from other files that a file uses, by the file that defines them."""
    used: dict[str, set[str]] = {}
    for other in INCLUDED:
        for word, kind in defined_in(other).items():
            if other != name and re.search(rf"(?<![\w.]){word}(?:{USE[kind]})", code_of(name)):
                used.setdefault(other, set()).add(word)
    return used


def test_every_file_is_included_once():
    assert sorted(INCLUDED) == sorted(path.name for path in KERNELS.iterdir())


def test_no_name_is_defined_twice():
    names = [word for name in INCLUDED for word in defined_in(name)]
    assert len(names) > 300
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", INCLUDED)
def test_a_file_uses_nothing_of_a_later_one(name):
    before = INCLUDED[: INCLUDED.index(name)]
    late = {other: words for other, words in used_by(name).items() if other not in before}
    assert not late


@pytest.mark.parametrize("name", INCLUDED)
def test_a_head_names_what_the_file_needs(name):
    """Directly, or through a file that it names; and no file that it does not use."""
    used = used_by(name)
    assert not {other: words for other, words in used.items() if other not in reachable(name)}
    assert set(needs_of(name)) <= set(used)


# Modules ------------------------------------------------------------------------------------------


def all_imported_by(modules: set[str]) -> set[str]:
    """What modules import, directly or indirectly, without compiled modules."""
    found, new = set(), modules
    while new:
        found |= new
        new = set().union(*(imported_by(name) for name in new)) & set(MODULES) - found
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_layer_and_those_below(module):
    above = {name for name in imported_by(module) if layer_of(name) > layer_of(module)}
    assert not above
    inner = {name for name in imported_by(module) if re.search(r"\._(?!call|core)", name)}
    bridge = ".".join(module.split(".")[:2])
    # What a bridge keeps to itself begins with an underscore. Dask's chunks are rows of shards.
    outside = {name for name in inner if not name.startswith(f"{bridge}.")}
    assert not outside - {"fastce.sharded._rows"}


def test_the_reference_imports_nothing_of_the_package():
    assert used_by_reference() == set()


def test_the_core_and_what_it_calls_need_no_variant():
    """They are imported while the compiled module is, before a variant can be chosen."""
    called = called_by_core()
    assert called <= set(MODULES)
    calls = [*reversed(LAYERS)].index("calls")
    assert not {name for name in all_imported_by(called) if layer_of(name) > calls}
    assert "fastce._call.variants" not in all_imported_by(called)


def test_the_picture_is_that_of_the_imports():
    """`python tools/layers.py` draws it again."""
    (drawn,) = PICTURE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert drawn == picture()


# Folders ------------------------------------------------------------------------------------------


def test_folders_and_files_stay_small():
    """At most 20 entries at the top of the package, and 500 lines in a file."""
    made = re.compile(r"__pycache__|.*\.(so|pyd|pyc)|py\.typed")  # not read by people
    assert len([path for path in PACKAGE.iterdir() if not made.fullmatch(path.name)]) <= 20
    for path in PACKAGE.rglob("*.*"):
        if path.suffix in (".py", ".pyx", ".pxd", ".pxi", ".hpp"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path.name
