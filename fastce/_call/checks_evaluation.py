"""Errors about evaluations, and about the files of logits that the command line reads."""

import math
import os
import stat
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from fastce._call import checks, checks_bridges
from fastce._call.messages import shown


def temperature(value: Any) -> float:
    number = checks.number("temperature", value, above=0.0)
    if 1 / number == math.inf:
        raise ValueError(f"temperature must have a finite reciprocal, got {shown(value)}")
    return number


def count(name: str, value: Any) -> int:
    """Return bins or max_rank: how many numbers an evaluation holds."""
    result = checks.at_least_one(name, value)
    if result >= 2**24:
        raise ValueError(f"{name} must be less than 2**24, got {shown(value)}")
    return result


def top_k(k: Any, max_rank: int, beyond: int) -> int:
    """Return the k of top-k accuracy; the targets of ``beyond`` rows have ranks beyond max_rank."""
    result = checks.at_least_one("k", k)
    if result > max_rank and beyond:
        raise ValueError(
            f"k must be from 1 to {max_rank}, the max_rank of the evaluation, got {shown(k)}"
        )
    return result


def mergeable(own: tuple[int, int], other: tuple[int, int]) -> None:
    """Check that two evaluations have the same bins and the same max_rank."""
    for name, a, b in zip(("bins", "max_rank"), own, other, strict=True):
        if a != b:
            raise ValueError(f"evaluations must have the same {name}, got {a} and {b}")


def not_written(error: Exception) -> NoReturn:
    raise ValueError(f"text must be JSON that Evaluation.to_json wrote: {error!r}") from error


def no_temperature(why: str) -> NoReturn:
    raise ValueError(f"no temperature minimises the loss: {why}")


# Files --------------------------------------------------------------------------------------------


class WrongUsage(Exception):
    """Arguments of the command line do not fit."""


def chosen(path: str, found: list[str], key: str | None, names: tuple[str, ...]) -> str:
    """Return the name of the array to read from a file."""
    if key is not None:
        if key not in found:
            raise WrongUsage(f"{path} has no array {key!r}: it has {', '.join(found)}")
        return key
    if len(found) == 1:
        return found[0]
    for name in names:
        if name in found:
            return name
    if not found:
        raise ValueError(f"{path} has no arrays")
    raise WrongUsage(
        f"{path} has several arrays: {', '.join(found)}; choose one with --{names[0]}-key"
    )


def raw_dtype(path: str, name: str | None, kinds: str) -> np.dtype[Any]:
    """Return the dtype of logits or labels in a raw file; ``kinds`` has the letters of its kind."""
    if name is None:
        raise WrongUsage(
            f"{path} is not .npy, .npz or .safetensors: for raw logits pass --dtype and"
            " --classes, for raw labels --labels-dtype"
        )
    if name == "bfloat16" and "f" in kinds:
        return checks_bridges.bfloat16("evaluation")
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        raise WrongUsage(f"{name!r} is not a dtype") from None
    if dtype.kind not in kinds:
        accepted = "a floating-point" if "f" in kinds else "an integer"
        raise WrongUsage(f"{name!r} is not {accepted} dtype")
    return dtype


def only_raw(path: str, given: dict[str, Any]) -> None:
    """Reject options that do not apply to a file of this kind."""
    for option, value in given.items():
        if value is not None:
            raise WrongUsage(f"{option} does not apply to {path}")


def unreadable(path: str, kind: str, error: Exception) -> NoReturn:
    raise ValueError(f"{path} is not a valid {kind} file: {error}") from error


def picture(path: str, accepted: Iterable[str]) -> None:
    """Check that a figure can be written: its suffix, and its folder."""
    if os.path.splitext(path)[1].removeprefix(".").lower() not in accepted:
        raise WrongUsage(f"--plot must end in one of .{', .'.join(accepted)}, got {path}")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise WrongUsage(f"--plot: there is no folder {folder}")
    if os.path.isdir(path):
        raise WrongUsage(f"--plot must be a file, and {path} is a folder")


def tensor_dtype(path: str, kind: str) -> np.dtype[Any]:
    """Return NumPy's dtype for a dtype of safetensors."""
    if kind == "BF16":
        return checks_bridges.bfloat16("evaluation")
    letter, bits = kind[0], kind[1:]
    if letter not in "FIU" or bits not in ("8", "16", "32", "64") or kind == "F8":
        raise ValueError(f"{path} holds {kind}, which is neither logits nor labels")
    return np.dtype(f"{letter.lower()}{int(bits) // 8}")


def rows_of_raw(path: str, status: os.stat_result, row: int) -> int:
    if not stat.S_ISREG(status.st_mode):  # its size is unknown
        raise ValueError(f"{path} is not a regular file")
    size = status.st_size
    if row == 0 or size % row:
        raise ValueError(f"{path} has {size} bytes, not a multiple of the {row} bytes of a row")
    return size // row


def whole_file(path: str, size: int) -> None:
    found = os.path.getsize(path)
    if found < size:
        raise ValueError(f"{path} is truncated: it should have {size} bytes, but has {found}")


def files_fit(logits: tuple[int, ...], labels: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(logits) < 2:
        raise ValueError(f"logits must have a row for each label, got shape {logits}")
    if dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got {dtype}")
    if labels != logits[:-1]:
        raise ValueError(
            f"labels of shape {labels} do not fit logits of shape {logits}: they must have shape"
            f" {logits[:-1]}"
        )
