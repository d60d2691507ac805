"""One way to break the package, and the tests that have to notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    variant: str = "_core"  # of the kernels: what it shows in


SOFTMAX = ("test_softmax_family.py", "test_edge_cases.py")
SIGMOID = ("test_sigmoid_family.py", "test_edge_cases.py")
MODERATE = ("test_moderate_logits.py",)
ERRORS = ("test_errors.py", "test_hostile.py", "test_hostile_arguments.py")
