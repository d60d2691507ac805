"""`python -m bench.cliffs`: its calls, and what it writes. Its measurements are not checked."""

import dataclasses
import json

import numpy as np
import pytest

from bench import cliffs, variations
from bench.timing import Budget
from fastce import reference

ONCE = Budget(0.0, 1)
ELEMENTS = 640
TOLERANCE = {"float64": 1e-12, "float32": 3e-6, "float16": 2e-3, "bfloat16": 1e-2}
GROUPS = {
    group.name: group
    for group in variations.groups(cliffs.SECTIONS, (3, 10), ELEMENTS)
    if not group.name.startswith("types")
}
CALLS = [
    pytest.param(variation, id=f"{group.name}: {variation.name}")
    for group in GROUPS.values()
    for variation in group.variations
]


def truth(variation):
    """What the reference gives for a call, in the call's order."""
    function = getattr(reference, variation.operation)
    given = {k: v for k, v in variation.given.items() if k != "out"}
    arguments = [a for a in variation.arguments if a is not None]
    logits = np.array(arguments[0]).astype(np.float64)
    result = function(logits, *arguments[1:], **given)
    if variation.operation in variations.LOSSES:
        return result[: variation.results]
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("variation", CALLS)
def test_each_call_gives_what_the_reference_gives(variation):
    expected = truth(variation)  # before the call, which may write over the logits
    found = variation.prepare()()
    found = found if isinstance(found, tuple) else (found,)
    dtype = variation.arguments[0].dtype.newbyteorder("=")
    rtol, least = TOLERANCE[dtype.name], 1e-7 if dtype == np.float16 else 0.0
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a).astype(np.float64), np.asarray(b)
        largest = np.abs(b[np.isfinite(b)]).max()
        np.testing.assert_allclose(a, b, rtol=rtol, atol=max(rtol * largest, least))


def test_each_option_layout_and_type_has_a_name_and_a_bound():
    for group in GROUPS.values():
        names = [variation.name for variation in group.variations]
        assert names[0] == "plain"
        assert len(set(names)) == len(names)
        assert all(variation.bound >= 1 for variation in group.variations)
        assert group.variations[0].bound == 1
    softmax = {variation.name for variation in GROUPS["float32, 10 classes"].variations}
    options = {f.name for f in dataclasses.fields(variations.LOSSES["softmax_cross_entropy"])}
    asked = {k for v in GROUPS["float32, 10 classes"].variations for k in v.given}
    assert {"label smoothing", "class-major, Hessian", "5 % -inf", "token_log_probs"} <= softmax
    assert options - asked == {"ignore_index"}  # which has its default


def test_a_scan_of_two_cells(tmp_path, capsys):
    group = GROUPS["float32, 10 classes"]
    two = dataclasses.replace(group, variations=group.variations[:2])
    results = json.loads(json.dumps(cliffs.scan([two], ONCE)))
    assert set(results) == {"machine", "commit", "cells", "failed"}
    assert results["failed"] == []
    assert results["machine"]["threads"] == [1]
    names = [cell["name"] for cell in results["cells"]]
    assert names == ["float32, 10 classes: plain", "float32, 10 classes: loss alone"]
    for cell in results["cells"]:
        assert set(cell) == {"name", "nanoseconds_per_element", "ratio", "bound"}
        assert cell["nanoseconds_per_element"] > 0
    assert results["cells"][0]["ratio"] == 1
    assert capsys.readouterr().err == "float32, 10 classes\n"


def test_a_call_that_raises_is_named():
    group = GROUPS["float32, 10 classes"]
    plain = group.variations[0]
    wrong = dataclasses.replace(plain, name="wrong", given={"label_smoothing": 2.0})
    cells, failed = cliffs.measure(dataclasses.replace(group, variations=[plain, wrong]), ONCE)
    assert [cell["name"] for cell in cells] == ["float32, 10 classes: plain"]
    assert failed[0]["name"] == "float32, 10 classes: wrong"
    assert failed[0]["error"].startswith("ValueError: label_smoothing")
    assert "wrong raised ValueError" in cliffs.report({"cells": cells, "failed": failed})


def test_the_report_has_the_worst_cells_first():
    def cell(name, ratio, bound):
        return {"name": name, "nanoseconds_per_element": 1.0, "ratio": ratio, "bound": bound}

    cells = [cell("a", 2.2, 2.0), cell("b", 1.0, 1.0), cell("c", 3.0, 1.5)]
    report = cliffs.report({"cells": cells, "failed": []})
    assert report.startswith("2 of 3 cells beyond their bound\n")
    assert [line.split(" | ")[0] for line in report.splitlines()[4:]] == ["| c", "| a"]


def test_types_are_compared_with_float32():
    softmax, sigmoid = variations.groups(["types"], [10], ELEMENTS)
    assert (softmax.name, sigmoid.name) == ("types, 10 classes", "types, sigmoid")
    for group in (softmax, sigmoid):
        assert group.elements == ELEMENTS
        assert [v.arguments[0].dtype.name for v in group.variations] == list(variations.TYPES)
        assert [v.name for v in group.variations] == list(variations.TYPES)
        assert (group.variations[0].name, group.variations[0].bound) == ("float32", 1)
