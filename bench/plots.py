"""The plots of a full run, as SVG. ``python -m bench.plots [results.json]`` draws them again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from bench.report import FASTCE, minimum
from bench.subjects import LIMIT

# Okabe and Ito's colours, told apart by colour-blind readers too. The limit is grey.
COLOURS = {
    LIMIT: "#8c8c8c",
    FASTCE: "#d55e00",
    "fastce, new array": "#e8a06a",
    "NumPy": "#0072b2",
    "SciPy": "#56b4e9",
    "scikit-learn": "#e69f00",
    "Numba": "#009e73",
    "torch": "#cc79a7",
    "torch.compile": "#7b3294",
    "JAX": "#000000",
}
MARKERS = {
    LIMIT: "|",
    FASTCE: "o",
    "NumPy": "s",
    "SciPy": "D",
    "scikit-learn": "P",
    "Numba": "^",
    "torch": "v",
    "torch.compile": "<",
    "JAX": "X",
}
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "fastce",  # the same data gives the same file
}
LEAST_ERROR = 1e-8  # where an error of 0 is drawn: below float32's half unit in the last place


def _names(measured: list[dict[str, Any]]) -> list[str]:
    present = {name for m in measured for name in m["seconds"]}
    return [name for name in COLOURS if name in present]


def _caption(figure: Any, results: dict[str, Any], what: str) -> None:
    facts = results["machine"]
    figure.text(
        0.01,
        0.005,
        f"{facts['processor']}, {facts['instruction_set']}, {what}. "
        f"NumPy {facts['versions'].get('numpy')}, torch {facts['versions'].get('torch')}, "
        f"JAX {facts['versions'].get('jax')}. {facts['date']}",
        fontsize=9,
        color="#666666",
    )


def _float32_on(threads: int) -> str:
    return f"float32, {threads} thread{'s' * (threads > 1)}"


def _save(figure: Any, output: Path, name: str) -> Path:
    path = output / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _lines(results: dict[str, Any], sweep: str, per_element: bool) -> Any:
    measured = results["sweeps"][sweep]
    figure, axes = plt.subplots(figsize=(7.5, 4.6))
    for name in _names(measured):
        points = [
            (m[sweep], seconds / m["elements"] * 1e9 if per_element else seconds * 1e3)
            for m in measured
            if (seconds := minimum(m, name)) is not None
        ]
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS[name],
            label="copy (limit)" if name == LIMIT else name,
            linewidth=2.4 if name == FASTCE else 1.4,
            linestyle="--" if name == LIMIT else "-",
            marker="" if name == LIMIT else MARKERS[name],
            markersize=4.5,
        )
    axes.set(xscale="log", yscale="log", xlabel=sweep)
    axes.legend(ncols=3)
    _caption(figure, results, _float32_on(results["machine"]["threads"][0]))
    return figure, axes


def speed_against_classes(results: dict[str, Any], output: Path) -> Path:
    figure, axes = _lines(results, "classes", per_element=True)
    axes.set_xscale("log", base=2)
    axes.set_ylabel("nanoseconds per element")
    axes.set_title("Softmax cross-entropy with gradient: cost against classes", loc="left")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return _save(figure, output, "speed_against_classes")


def time_against_rows(results: dict[str, Any], output: Path) -> Path:
    figure, axes = _lines(results, "rows", per_element=False)
    axes.set_ylabel("milliseconds per call")
    axes.set_xlabel("rows of 100 classes")
    axes.set_title("Softmax cross-entropy with gradient: time against rows", loc="left")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return _save(figure, output, "time_against_rows")


def ratio_to_limit(results: dict[str, Any], output: Path) -> Path:
    """Every cell and subject, in multiples of the limit: one panel per thread count."""
    counts = results["machine"]["threads"]
    groups = list(dict.fromkeys(m["cell"] for m in results["cells"]))
    figure, panels = plt.subplots(
        1, len(counts), figsize=(4.6 * len(counts) + 3, 0.34 * len(groups) + 2.2), sharey=True
    )
    for panel, threads in zip([panels] if len(counts) == 1 else panels, counts, strict=True):
        measured = [m for m in results["cells"] if m["threads"] == threads]
        for name in _names(measured):
            if name == LIMIT or name not in MARKERS:
                continue
            points = [
                (seconds / limit, groups.index(m["cell"]))
                for m in measured
                if (seconds := minimum(m, name)) and (limit := minimum(m, LIMIT))
            ]
            panel.scatter(
                *zip(*points, strict=True),
                color=COLOURS[name],
                marker=MARKERS[name],
                s=60 if name == FASTCE else 22,
                label=name,
                zorder=3 if name == FASTCE else 2,
            )
        panel.axvline(1, color=COLOURS[LIMIT], linestyle="--", linewidth=1)
        panel.set(xscale="log", xlabel="times the memory limit")
        panel.set_title(f"{threads} thread{'s' * (threads > 1)}", loc="left")
    panel.set_yticks(range(len(groups)), groups, fontsize=10)
    panel.invert_yaxis()
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=9, fontsize=10, bbox_to_anchor=(0.5, 0.02)
    )
    _caption(figure, results, "equal threads for every peer, the limit on one")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return _save(figure, output, "ratio_to_limit")


def error_against_speed(results: dict[str, Any], output: Path) -> Path:
    """Worst error of a loss against time per element: plain and confident logits side by side."""
    first = results["machine"]["threads"][0]
    measured = [
        m
        for m in results["cells"]
        if m["threads"] == first and m["errors"] and m["elements"] >= 10_000
        if m["cell"].startswith("softmax_cross_entropy") and m["cell"].endswith("float32")
    ]
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.8), sharex=True, sharey=True)
    titles = {"normal": "logits with standard deviation 3", "confident": "confident and correct"}
    for panel, (kind, title) in zip(panels, titles.items(), strict=True):
        for name in _names(measured):
            if name not in MARKERS or name == LIMIT:
                continue
            points = [
                (seconds / m["elements"] * 1e9, max(error["value"], LEAST_ERROR))
                for m in measured
                if (seconds := minimum(m, name)) is not None
                and (error := m["errors"].get(name, {}).get(kind))
            ]
            if points:
                panel.scatter(
                    *zip(*points, strict=True),
                    color=COLOURS[name],
                    marker=MARKERS[name],
                    s=50 if name == FASTCE else 26,
                    label=name,
                )
        panel.set(xscale="log", yscale="log", xlabel="nanoseconds per element")
        panel.set_title(title, loc="left")
    panels[0].set_ylabel("worst relative error of a sample's loss")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=4, fontsize=10, bbox_to_anchor=(0.5, 0.03)
    )
    _caption(figure, results, _float32_on(first))
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    return _save(figure, output, "error_against_speed")


def draw(results: dict[str, Any], output: Path) -> list[Path]:
    """Every plot that the results have data for; the files written."""
    plt.switch_backend("agg")
    with plt.rc_context(STYLE):
        paths = [ratio_to_limit(results, output), error_against_speed(results, output)]
        if results["sweeps"]:
            paths += [speed_against_classes(results, output), time_against_rows(results, output)]
    return paths


if __name__ == "__main__":
    default = Path(__file__).parent / "results" / "results.json"
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for path in draw(json.loads(source.read_text(encoding="utf-8")), source.parent):
        print(path)
