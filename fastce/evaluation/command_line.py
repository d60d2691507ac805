"""``python -m fastce evaluate``: from files of logits and labels to a table, JSON or a figure."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import operator
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastce._call import checks_bridges, checks_evaluation, positions
from fastce._call.checks_evaluation import WrongUsage
from fastce.evaluation._evaluate import Options, checked, read
from fastce.evaluation._evaluation import Evaluation
from fastce.evaluation._files import Rows, opened
from fastce.evaluation._temperature import Temperature, minimise

__all__ = ["main"]

BLOCK_BYTES = 32 << 20  # of logits that are read at once
USAGE, DATA = 2, 1  # exit codes
BAD_DATA = (ValueError, TypeError, IndexError, OSError, ImportError, MemoryError)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argument_parser()
    given = parser.parse_args(arguments)
    try:
        run(given)
    except WrongUsage as error:
        parser.exit(USAGE, f"fastce evaluate: {error}\n")
    except BAD_DATA as error:
        parser.exit(DATA, f"fastce evaluate: {error}\n")
    return 0


def at_least_one(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer greater than 0, got {text}")
    return value


def positive(text: str) -> float:
    try:
        return checks_evaluation.temperature(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be finite and greater than 0, and so must its reciprocal, got {text}"
        ) from None


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastce",
        description="Without a command, show the configuration.",
    )
    commands = parser.add_subparsers(required=True, metavar="evaluate")
    command = commands.add_parser(
        "evaluate",
        help="perplexity, accuracy and calibration of logits in a file",
        description="Perplexity, accuracy and calibration of logits in a file, which is read once,"
        " block by block. The class axis is the last; those before it are rows.",
    )
    add = command.add_argument
    add("logits", help=".npy, .npz, .safetensors, or raw numbers with --dtype and --classes")
    add("labels", help="a file of integers, one per row; raw with --labels-dtype")
    add("--ignore-index", type=int, default=-100, help="label of rows that do not count (-100)")
    add("--temperature", type=positive, default=1.0, help="divides the logits (1)")
    add("--fit-temperature", action="store_true", help="find the temperature with the lowest loss")
    add("--bins", type=at_least_one, default=15, help="bins of the calibration error (15)")
    add(
        "--max-rank",
        type=at_least_one,
        default=100,
        help="number of ranks that are counted separately (100)",
    )
    add("--plot", metavar="FILE", help="draw reliability, confidence and ranks: .png, .svg, .pdf")
    add("--json", action="store_true", help="print JSON")
    add("--dtype", help="type of raw logits, such as float32 or bfloat16")
    add("--classes", type=at_least_one, help="number of classes of raw logits")
    add("--labels-dtype", help="type of raw labels, such as int64")
    add("--logits-key", help="name of the logits in .npz or .safetensors")
    add("--labels-key", help="name of the labels in .npz or .safetensors")
    return parser


def run(given: argparse.Namespace) -> None:
    if given.fit_temperature and given.temperature != 1.0:
        raise WrongUsage("--temperature and --fit-temperature cannot be combined")
    if sys.stdout is None:
        raise OSError("standard output is closed")
    problem = Problem.of(given)
    if given.plot is not None:
        can_draw(given.plot)
    temperature = None
    if given.fit_temperature:
        temperature = minimise(lambda t: problem.evaluate(t, double_precision=True))
        result = temperature.after
    else:
        result = problem.evaluate(given.temperature)
    text = str(result) if temperature is None else f"{result}\n\n{temperature}"
    print(as_json(result, temperature) if given.json else text, flush=True)
    if given.plot is not None:  # last, because the file may not be writable
        draw(given.plot, result, temperature)


class Problem(NamedTuple):
    """Logits and labels in files, and what to compute from them."""

    logits: Rows
    labels: Rows
    options: Options

    @classmethod
    def of(cls, given: argparse.Namespace) -> Problem:
        if given.dtype is not None and given.classes is None:
            raise WrongUsage("--dtype needs --classes")
        raw = {"--dtype": given.dtype, "--classes": given.classes}
        logits = opened(given.logits, ("logits",), {"--logits-key": given.logits_key}, raw)
        names, key = ("labels", "target", "targets"), {"--labels-key": given.labels_key}
        labels = opened(given.labels, names, key, {"--labels-dtype": given.labels_dtype})
        if len(labels.shape) == 1 and len(logits.shape) > 2:
            logits = logits.flat(1)
        checks_evaluation.files_fit(logits.shape, labels.shape, labels.dtype)
        nothing = np.empty((0, logits.shape[-1]), logits.dtype), np.empty(0, labels.dtype)
        try:
            *_, options = checked(*nothing, -1, given.ignore_index, given.bins, given.max_rank)
        except ValueError as error:  # of the options: arrays of a wrong type raise TypeError
            raise WrongUsage(error) from None
        return cls(logits.flat(1), labels.flat(0), options)

    def evaluate(self, temperature: float, *, double_precision: bool = False) -> Evaluation:
        count, classes = self.logits.shape
        step = max(BLOCK_BYTES // max(classes * self.logits.dtype.itemsize, 1), 1)

        def evaluations() -> Iterator[Evaluation]:
            with progress(count) as advance:
                for start in range(0, max(count, 1), step):
                    stop = min(start + step, count)
                    logits, labels = self.logits.read(start, stop), self.labels.read(start, stop)
                    with positions.counted_from({"target": (start,)}):
                        z, y, _ = checked(logits, labels, -1, *self.options)
                    yield read(z, y, self.options, temperature, double_precision=double_precision)
                    advance(stop - start)

        return functools.reduce(operator.add, evaluations())


@contextlib.contextmanager
def progress(count: int) -> Iterator[Any]:
    """Show a bar on a terminal after a second of work, if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda rows: None
        return
    # disable=None shows it only on a terminal.
    with tqdm(
        total=count, unit=" rows", unit_scale=True, delay=1, disable=None, leave=False
    ) as bar:
        yield bar.update


def as_json(result: Evaluation, temperature: Temperature | None) -> str:
    if temperature is None:
        return result.to_json()
    return json.dumps(
        {
            "temperature": float(temperature),
            "before": json.loads(temperature.before.to_json()),
            "after": json.loads(result.to_json()),
        }
    )


def can_draw(path: str) -> None:
    """Check that a figure can be drawn, before reading files, which may take minutes."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        checks_bridges.missing_host("matplotlib", "plots", error)
    checks_evaluation.picture(path, FigureCanvasBase.get_supported_filetypes())


def draw(path: str, result: Evaluation, temperature: Temperature | None) -> None:
    from fastce.plots import evaluation_curves

    results: Any = result
    if temperature is not None:
        results = {"before": temperature.before, f"T = {float(temperature):.3g}": result}
    figure: Any = evaluation_curves(results)[0].get_figure()
    try:
        figure.savefig(path)
    except RuntimeError as error:  # .pgf needs TeX
        raise ValueError(f"{path} cannot be drawn: {error}") from error
