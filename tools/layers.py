"""Draw the layers of the package, and what each part uses, from the imports, in CONTRIBUTING.md.

Run: python tools/layers.py. tests/kernels/test_includes.py checks the layers with the functions of
this file, and that the picture matches the imports.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastce"
CORE = (PACKAGE / "_core.pyx").read_text(encoding="utf-8")
BRIDGES = ("objectives", "torch", "jax", "dask", "sharded")
PICTURE = re.compile(r"(?<=```mermaid\n).*?(?=```\n)", re.S)

# The layers from the highest to the lowest, and the parts of each.
LAYERS = {
    "bridges": BRIDGES,
    "public modules": ("public",),
    "calls": ("_call",),
    "core": ("_core",),
    "kernels": ("_kernels",),
    "vectors": ("_simd",),
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def imported_by(module: str) -> set[str]:
    """The modules of the package that a module names in its import statements."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports by a relative name"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
    return {name for name in found if name == "fastce" or str(name).startswith("fastce.")}


def called_by_core() -> set[str]:
    """The modules that the compiled module imports."""
    (names,) = re.findall(r"^from fastce\._call import (.*)$", CORE, re.MULTILINE)
    return {f"fastce._call.{name}" for name in names.split(", ")}


def part_of(module: str) -> str:
    """Return the part that a module belongs to, a node of the picture."""
    first = [*module.split("."), ""][1]
    if first.startswith("_core"):
        return "_core"
    if first in (*BRIDGES, "_call", "reference"):
        return first
    return "public"


def layer_of(module: str) -> int:
    """Return the layer, 0 being the lowest. The package's own namespace is above all of them."""
    if module in ("fastce", "fastce.__main__"):
        return len(LAYERS)
    for height, parts in enumerate(reversed(LAYERS.values())):
        if part_of(module) in parts:
            return height
    return 0


def arrows() -> set[tuple[str, str]]:
    """Return which part imports from which, except what a path through other parts implies."""
    direct = {(part_of(a), part_of(b)) for a in MODULES for b in imported_by(a)}
    if 'include "_kernels/' in CORE and "from fastce._simd cimport" in CORE:
        direct |= {("_core", "_kernels"), ("_kernels", "_simd")}
    drawn = {part for parts in LAYERS.values() for part in parts}
    direct = {(a, b) for a, b in direct if a != b and {a, b} <= drawn}

    def reaches(a: str, b: str) -> bool:
        return (a, b) in direct or any(reaches(c, b) for d, c in direct if d == a)

    return {
        (a, b) for a, b in direct if not any(d == a and c != b and reaches(c, b) for d, c in direct)
    }


def used_by_reference() -> set[str]:
    """What the reference imports from the rest of the package, which should be nothing."""
    modules = [name for name in MODULES if part_of(name) == "reference"]
    return {b for a in modules for b in imported_by(a) if part_of(b) != "reference"}


def label_of(part: str) -> str:
    if part == "public":
        names = {name.split(".")[1] for name in MODULES if part_of(name) == part and "." in name}
        ends = ((name, "/" if (PACKAGE / name).is_dir() else ".py") for name in sorted(names))
        return "<br>".join(name + end for name, end in ends if name != "__main__")
    if part == "_core":
        return "_core.pyx, _core.pxd"
    return f"{part}/"


def picture() -> str:
    """The package as a Mermaid flow chart, which code hosts render."""
    lines = ["flowchart TD"]
    for layer, parts in LAYERS.items():
        lines.append(f'  subgraph layer_{layer.split()[0]}["{layer}"]')
        lines += [f'    {part.strip("_")}["{label_of(part)}"]' for part in parts]
        lines.append("  end")
    lines += [f"  {a.strip('_')} --> {b.strip('_')}" for a, b in sorted(arrows())]
    names = ", ".join(sorted(name.rpartition(".")[2] for name in called_by_core()))
    lines.append(f'  core -. "{names}" .-> call')
    assert not used_by_reference()
    lines.append('  reference["reference/"]')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    document = ROOT / "CONTRIBUTING.md"
    drawn = PICTURE.sub(lambda _: picture(), document.read_text(encoding="utf-8"))
    document.write_text(drawn, encoding="utf-8")
