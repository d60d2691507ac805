"""What the benchmark's figures rest on: turns, errors that it has to notice, and its report."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from bench import accuracy_rows, machine, report
from bench.accuracy import errors, extended_precision, true_answer
from bench.cells import CELLS
from bench.problems import make_problem
from bench.timing import WARMED_BELOW, Budget, interleave


def test_runs_take_turns():
    """The first calls tell how many make a sample; then each run is timed once per round."""
    now, turns = 0.0, []

    def run(name, seconds):
        def call():
            nonlocal now
            now += seconds
            turns.append(name)

        return call

    lengths = {"long": 2 * WARMED_BELOW, "short": 2.5e-3}
    runs = {name: run(name, seconds) for name, seconds in lengths.items()}
    begun = []
    samples = interleave(runs, Budget(0, 3), clock=lambda: now, before_turn=begun.append)
    assert begun == ["long", "short"] * 4
    assert turns == ["long", *["short"] * 3, *["long", *["short"] * 3] * 3]
    assert samples["long"] == pytest.approx([lengths["long"]] * 4)
    assert samples["short"] == pytest.approx([lengths["short"]] * 3)


def test_time_of_the_budget_is_used():
    samples = interleave({"sleep": lambda: time.sleep(1e-3)}, Budget(0.1, 2))
    assert 2 <= len(samples["sleep"]) < 20


@pytest.mark.skipif(not extended_precision(), reason="long double is double here")
def test_lost_digits_are_seen():
    """A loss of 0 where the truth is small is an error of 1; a change of one part in 10⁹ shows."""
    cell = replace(CELLS[0], dtype="float64", shape=(7, 5))
    confident = make_problem(cell, 1, "none", "confident")
    truth = true_answer(confident)
    exact = truth.value.astype(float), truth.gradient.astype(float)
    found = errors(exact, confident, truth)
    assert max(found.values()) < 2.3e-16
    changed = exact[0] * (1 + 1e-9), exact[1] * (1 - 1e-9)
    found = errors(changed, confident, truth)
    assert found == pytest.approx({"value": 1e-9, "gradient": 1e-9}, rel=1e-3)
    found = errors((0 * exact[0], 0 * exact[1]), confident, truth)
    assert found == {"value": 1.0, "gradient": 1.0}
    found = errors((np.nan * exact[0], exact[1]), confident, truth)
    assert found["value"] == np.inf


def test_report_of_what_pytest_benchmark_has_written(tmp_path):
    cell = CELLS[0]

    def benchmark(subject, seconds, sweep=None, **info):
        info = {"cell": cell.group, "threads": 1, "subject": subject, "sweep": sweep, **info}
        info = {"elements": cell.elements, "classes": cell.classes, "errors": {}, **info}
        stats = {"min": seconds, "median": 2 * seconds, "rounds": 5}
        return {"extra_info": info, "stats": stats}

    wrong = {"normal": {"value": 1e-7, "gradient": 2e-7}}
    place = {"cell": cell.group, "threads": 1, "sweep": None}
    facts = {"threads": [1], "versions": {}, "date": "2024-06-07", "load": 0.1, "cpus": 2}
    names = "processor", "architecture", "system", "instruction_set", "python"
    data = {
        "machine_info": {"bench": facts | dict.fromkeys(names, "made up")},
        "benchmarks": [
            benchmark("limit", 1e-6),
            benchmark("fastce", 4e-6, errors=wrong),
            benchmark("NumPy", 2e-6),
            benchmark("fastce", 3e-6, "classes"),
        ],
        "left_out": [{**place, "subject": "torch", "reason": "ValueError: no"}],
        "missing": {"jax": "No module named 'jax'"},
    }
    file = tmp_path / "benchmark.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    results = report.read(file)
    (measured,), (swept,) = results["cells"], results["sweeps"]["classes"]
    assert measured["seconds"]["fastce"] == {"minimum": 4e-6, "median": 8e-6, "rounds": 5}
    assert measured["errors"] == {"fastce": wrong}
    assert (swept["classes"], swept["rows"], list(swept["seconds"])) == (10, 64, ["fastce"])
    report.write(results, tmp_path)
    assert report.read(tmp_path / "results.json") == results
    text = (tmp_path / "table.md").read_text("utf-8")
    assert f"- {cell.group}, 1 thread: **slower than NumPy**: 0.50 times as fast" in text
    assert f"- torch: ValueError: no ({cell.group})" in text
    assert "- jax: No module named 'jax'" in text


@pytest.mark.skipif(not extended_precision(), reason="long double is double here")
def test_accuracy_of_rows_against_mpmath(monkeypatch):
    """Divergence and statistics lie within their bounds, and a wrong digit does not."""
    from fastce._call import variants

    monkeypatch.setattr(accuracy_rows, "CLASSES", (5, 12))
    names = [variants.available()[0]]
    pairs = list(accuracy_rows.divergences(names, quick=True))
    assert len(pairs) == 2 * 2 * 2 * 3
    for key in ("loss", "grad"):
        assert 0 < accuracy_rows.worst(pairs, key) <= 16, key
    rows = list(accuracy_rows.statistics(names, quick=True))
    assert len(rows) == 2 * 2 * 3
    for key in accuracy_rows.STATISTICS:
        normal = [row for row in rows if row["kind"] != "wide"]
        assert accuracy_rows.worst(normal, key) <= 16, key
    text = accuracy_rows.report(pairs, rows, machine.facts([1]))
    assert text.count(f"| {names[0]} ") == 2 * 3 + 2 * 3

    student, teacher = accuracy_rows.rows_of(1e-3, 5, "float64")
    exact = [
        accuracy_rows.true_divergence(*pair, 1.0) for pair in zip(student, teacher, strict=True)
    ]
    exact[1][0][0] *= 1 + 1e-12
    assert accuracy_rows.of_divergence(names[0], student, teacher, 1.0, exact)["loss"] > 1000
