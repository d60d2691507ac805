"""The examples: the first sentence of each docstring, and the packages that each needs."""

import ast
import re
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
GROUPS = {
    "Train": [
        "digits", "train_digits", "distil_digits", "multi_label", "segmentation", "policy_gradient",
        "temperature_calibration",
    ],
    "Fit with another library": ["logistic_regression_scipy", "sklearn_estimator", "torch_swap"],
    "Boost": ["lightgbm_multiclass", "xgboost_focal", "boosting_on_dask"],
    "Large vocabularies and many processes": [
        "linear_cross_entropy", "evaluate_logits", "mpi_trainer",
    ],
    "Without Python in the loop": ["cython_trainer/train", "numba_trainer", "ctypes_caller"],
}  # fmt: skip


# Packages whose name on the package index is not their module's.
PACKAGES = {"sklearn": "scikit-learn"}


def imports_of(path):
    """Return the packages that a script imports, itself or through another example."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    own = {name for name in imported if (EXAMPLES / f"{name}.py").exists()}
    return (imported - own).union(*(imports_of(EXAMPLES / f"{name}.py") for name in own))


def about(name):
    """Return the first sentence of an example's docstring, and the packages that it needs."""
    path = EXAMPLES / f"{name}.py"
    text = " ".join(ast.get_docstring(ast.parse(path.read_text("utf-8"))).split())
    imported = imports_of(path)
    if (setup := path.parent / "setup.py").exists():  # builds a module that the script imports
        imported |= imports_of(setup)
    extensions = {path.stem for path in EXAMPLES.rglob("*.pyx")}
    imported -= sys.stdlib_module_names | extensions | {"fastce", "numpy"}
    needed = sorted(PACKAGES.get(package, package) for package in imported)
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0], needed


def table():
    grouped = [name for names in GROUPS.values() for name in names]
    here = {path.stem for path in EXAMPLES.glob("*.py")} | {"cython_trainer/train"}
    ungrouped = sorted(here.difference(grouped))
    groups = GROUPS | ({"Others": ungrouped} if ungrouped else {})
    lines = []
    for group, names in groups.items():
        lines += [f"**{group}**", "", "| example | what it does | needs |", "|---|---|---|"]
        for name in names:
            if name in here:
                sentence, needed = about(name)
                packages = ", ".join(f"`{package}`" for package in needed)
                lines.append(f"| `{name}.py` | {sentence} | {packages or 'only fastce'} |")
        lines.append("")
    return "\n".join(lines)
