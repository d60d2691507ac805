"""`python -m fastce evaluate` on files, as a process or, if that tests as much, in this one."""

from __future__ import annotations

import json
import os
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from processes import peak, run

from fastce.evaluation import Evaluation, command_line, evaluate, fit_temperature


@pytest.fixture
def problem(rng):
    z = rng.normal(scale=3, size=(900, 7)).astype(np.float32)
    y = (z / 2 + rng.gumbel(size=z.shape)).argmax(axis=1)
    y[::10] = -100
    return z, y


@pytest.fixture
def folder(problem, tmp_path, monkeypatch):
    z, y = problem
    np.save(tmp_path / "z.npy", z)
    np.save(tmp_path / "y.npy", y)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *arguments):
    """The evaluation that the command prints as JSON."""
    assert command_line.main(["evaluate", *map(str, arguments), "--json"]) == 0
    out, err = capsys.readouterr()
    assert not err
    return Evaluation.from_json(out)


def refused(capsys, code, *arguments):
    with pytest.raises(SystemExit) as ended:
        command_line.main(["evaluate", *map(str, arguments)])
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert not out
    return err


# As a process -------------------------------------------------------------------------------------


def test_a_process(problem, folder):
    finished = run("-m", "fastce", "evaluate", "z.npy", "y.npy", directory=folder)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == f"{evaluate(*problem)}\n"
    assert finished.stderr == ""


def test_an_unknown_command():
    finished = run("-m", "fastce", "estimate")
    assert finished.returncode == 2
    assert "usage: python -m fastce" in finished.stderr


# Peak memory since the program began; that of getrusage includes the process that started it.
LARGE = """
import re, sys
from fastce.evaluation import command_line

code = command_line.main(["evaluate", *sys.argv[1:], "--json"])
with open("/proc/self/status") as file:
    print(1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", file.read())[1]), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is asked of Linux")
def test_a_file_larger_than_the_memory_that_is_used(tmp_path):
    """A sparse file of 1.5 GB, in under 300 MB; the how-to page has one of 4 GB."""
    rows, classes = 24_000, 32_000
    with open(tmp_path / "z.npy", "wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (rows, classes)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2 * rows * classes)
    np.save(tmp_path / "y.npy", np.arange(rows))
    finished = run("-c", LARGE, "z.npy", "y.npy", directory=tmp_path, FASTCE_NUM_THREADS="1")
    assert finished.returncode == 0, finished.stderr
    result = Evaluation.from_json(finished.stdout)
    assert result.rows == rows
    assert result.loss == pytest.approx(np.log(classes), rel=1e-7)
    assert result.correct == 1
    assert result.rank_rows[-1] == rows  # of equal logits, those of a higher index come before
    assert int(finished.stderr) < 300e6


# Files --------------------------------------------------------------------------------------------


def test_kinds_of_files(problem, folder, capsys):
    z, y = problem
    expected = evaluate(z, y)
    np.savez(folder / "b.npz", logits=z, labels=y)
    z.tofile(folder / "z.bin")
    y.astype(np.int16).tofile(folder / "y.raw")
    raw = ["--dtype", "float32", "--classes", 7]
    assert said(capsys, "z.npy", "y.npy") == expected
    assert said(capsys, "b.npz", "b.npz") == expected
    assert said(capsys, "z.bin", "y.npy", *raw) == expected
    assert said(capsys, "z.bin", "y.raw", *raw, "--labels-dtype", "int16") == expected
    np.savez(folder / "c.npz", a=z, b=y)
    keys = ["--logits-key", "a", "--labels-key", "b"]
    assert said(capsys, "c.npz", "c.npz", *keys) == expected
    half = z.astype(ml_dtypes.bfloat16)
    half.tofile(folder / "half.bin")
    raw[1] = "bfloat16"
    assert said(capsys, "half.bin", "y.npy", *raw) == evaluate(half, y)


def test_safetensors(problem, folder, capsys):
    numpy = pytest.importorskip("safetensors.numpy")
    z, y = problem
    numpy.save_file({"logits": z, "labels": y}, folder / "b.safetensors")
    assert said(capsys, "b.safetensors", "b.safetensors") == evaluate(z, y)
    half = z.astype(ml_dtypes.bfloat16)
    numpy.save_file({"x": half}, folder / "h.safetensors")
    assert said(capsys, "h.safetensors", "y.npy") == evaluate(half, y)
    (folder / "bad.safetensors").write_bytes(b"no tensors")
    assert "is not a safetensors file" in refused(capsys, 1, "bad.safetensors", "y.npy")
    assert "no array 'q'" in refused(capsys, 2, "b.safetensors", "y.npy", "--logits-key", "q")


def test_one_long_sequence_is_read_in_blocks(tmp_path, capsys, monkeypatch):
    numpy = pytest.importorskip("safetensors.numpy")
    z, y = np.zeros((1, 50_000, 20), np.float32), np.zeros((1, 50_000), np.int32)  # 4 MB
    path = tmp_path / "b.safetensors"
    numpy.save_file({"a": y[:, :3], "labels": y, "logits": z, "z": y}, path)
    assert said(capsys, path, path).correct == 50_000
    monkeypatch.setattr(command_line, "BLOCK_BYTES", 20_000)
    assert peak(lambda: said(capsys, path, path)) < 1e6


def test_a_block_of_fortran_order_needs_no_copy_of_whole_sequences(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "z.npy", np.zeros((2, 50_000, 20), np.float32, order="F"))  # 8 MB
    np.save(tmp_path / "y.npy", np.zeros((2, 50_000), np.int32))
    monkeypatch.setattr(command_line, "BLOCK_BYTES", 20_000)
    assert peak(lambda: said(capsys, tmp_path / "z.npy", tmp_path / "y.npy")) < 1e6


@pytest.mark.parametrize("order", ["C", "F"])
def test_blocks_of_several_axes(order, problem, folder, capsys, monkeypatch):
    """Of a file that is read in blocks, which do not end where a sequence ends."""
    z, y = problem
    monkeypatch.setattr(command_line, "BLOCK_BYTES", 7 * 4 * 33)
    np.save(folder / "z3.npy", np.asarray(z.reshape(9, 100, 7), order=order))
    np.save(folder / "y3.npy", y.reshape(9, 100))
    for labels in ("y3.npy", "y.npy"):
        result = said(capsys, "z3.npy", labels)
        assert result.rank_rows == evaluate(z, y).rank_rows
        assert result.loss == pytest.approx(evaluate(z, y).loss, rel=1e-13)


@pytest.mark.parametrize("shape", [(3, 0, 5), (0, 2, 5), (3, 2, 0)], ids=str)
def test_several_axes_without_rows_or_classes(shape, tmp_path, capsys):
    z, y = np.zeros(shape, np.float32), np.full(shape[:-1], -100)
    np.save(tmp_path / "z.npy", z)
    np.save(tmp_path / "y.npy", y)
    assert said(capsys, tmp_path / "z.npy", tmp_path / "y.npy") == evaluate(z, y)
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "b.safetensors"
    numpy.save_file({"logits": z, "labels": y}, path)
    assert said(capsys, path, path) == evaluate(z, y)


def test_options(problem, folder, capsys):
    z, y = problem
    options = ["--bins", 7, "--max-rank", 3, "--temperature", 2.5]
    expected = evaluate(z, y, bins=7, max_rank=3, temperature=2.5)
    assert said(capsys, "z.npy", "y.npy", *options) == expected
    np.save(folder / "y.npy", np.where(y < 0, 99, y))
    assert said(capsys, "z.npy", "y.npy", "--ignore-index", 99, *options) == expected


def test_fit_temperature_and_plot(problem, folder, capsys):
    z, y = problem
    expected = fit_temperature(z, y)
    options = ["--fit-temperature", "--plot", "o.png"]
    assert command_line.main(["evaluate", "z.npy", "y.npy", *options]) == 0
    out, _ = capsys.readouterr()
    assert out == f"{expected.after}\n\n{expected}\n"
    assert (folder / "o.png").read_bytes().startswith(b"\x89PNG")
    command_line.main(["evaluate", "z.npy", "y.npy", "--fit-temperature", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["temperature"] == pytest.approx(expected, rel=1e-12)
    assert found["after"]["loss"] < found["before"]["loss"]


def test_a_progress_bar_on_a_terminal_after_a_second(folder, capsys, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    made = []

    class Bar(tqdm.tqdm):
        def __init__(self, **options):
            made.append(options)
            super().__init__(**{**options, "disable": True})

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    command_line.main(["evaluate", "z.npy", "y.npy"])
    (options,) = made
    assert (options["total"], options["delay"], options["disable"]) == (900, 1, None)
    monkeypatch.setitem(sys.modules, "tqdm", None)  # it is not needed
    assert command_line.main(["evaluate", "z.npy", "y.npy"]) == 0


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required"),
        (["z.npy", "y.npy", "--bins", "0"], "--bins: must be an integer greater than 0, got 0"),
        (["z.npy", "y.npy", "--bins", "x"], "--bins: must be an integer greater than 0, got x"),
        (["z.npy", "y.npy", "--bins", "9" * 19], "bins must fit in 64 bits, got 999999999"),
        (["z.npy", "y.npy", "--max-rank", "9" * 9], "max_rank must be less than 2**24, got 99999"),
        (["z.npy", "y.npy", "--ignore-index", "9" * 19], "ignore_index must fit in 64 bits"),
        (["z.npy", "y.npy", "--max-rank", "0"], "--max-rank: must be an integer greater than 0"),
        *[
            (["z.npy", "y.npy", "--temperature", t], "--temperature: must be finite and greater")
            for t in ("0", "1e-320", "warm")
        ],
        (["z.npy", "y.npy", "--temperature", "2", "--fit-temperature"], "cannot be combined"),
        (["z.bin", "y.npy"], "for raw logits pass --dtype and --classes"),
        (["z.bin", "y.npy", "--dtype", "float32"], "--dtype needs --classes"),
        (["z.bin", "y.npy", "--dtype", "float99", "--classes", "7"], "'float99' is not a dtype"),
        (["b.npz", "y.npy"], "several arrays: a, b; choose one with --logits-key"),
        (["z.npy", "y.npy", "--plot", ""], "--plot must end in one of"),
        (["z.npy", "y.npy", "--plot", "folder.png"], "folder.png is a folder"),
    ],
)
def test_wrong_usage(arguments, message, problem, folder, capsys):
    problem[0].tofile(folder / "z.bin")
    np.savez(folder / "b.npz", a=problem[0], b=problem[1])
    (folder / "folder.png").mkdir()
    assert message in refused(capsys, 2, *arguments)


def test_bad_data(problem, folder, capsys):
    z, y = problem
    assert "No such file" in refused(capsys, 1, "none.npy", "y.npy")
    assert "labels must be integers, got float32" in refused(capsys, 1, "z.npy", "z.npy")
    np.save("short.npy", y[:-1])
    message = refused(capsys, 1, "z.npy", "short.npy")
    assert "labels of shape (899,) do not fit logits of shape (900, 7)" in message
    assert "a row for each label" in refused(capsys, 1, "y.npy", "y.npy")
    np.save("integers.npy", z.astype(int))
    assert "logits must be float16" in refused(capsys, 1, "integers.npy", "y.npy")
    np.save("objects.npy", np.zeros(900, object))
    assert "labels must be integers, got object" in refused(capsys, 1, "z.npy", "objects.npy")
    (folder / "text.npy").write_text("no array")
    assert "magic string" in refused(capsys, 1, "text.npy", "y.npy")
    for descr in (b"'<f4,)'", b"()     ", b"('f4',)"):
        damaged = (folder / "z.npy").read_bytes().replace(b"'<f4', ", descr + b",", 1)
        (folder / "damaged.npy").write_bytes(damaged)
        assert "is not a valid .npy file" in refused(capsys, 1, "damaged.npy", "y.npy")
    (folder / "cut.npy").write_bytes((folder / "z.npy").read_bytes()[:-100])
    assert "is truncated" in refused(capsys, 1, "cut.npy", "y.npy")
    z.tofile(folder / "z.bin")
    message = refused(capsys, 1, "z.bin", "y.npy", "--dtype", "float64", "--classes", 11)
    assert "25200 bytes, not a multiple of the 88 bytes of a row" in message
    message = refused(capsys, 1, ".", "y.npy", "--dtype", "float64", "--classes", 11)
    assert ". is not a regular file" in message


def test_an_archive_larger_than_the_memory(folder, capsys):
    array = np.lib.format.magic(1, 0)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000, 7)}\n"
    with zipfile.ZipFile(folder / "huge.npz", "w") as archive:
        archive.writestr("logits.npy", array + len(header).to_bytes(2, "little") + header)
    assert "fastce evaluate: Unable to allocate" in refused(capsys, 1, "huge.npz", "y.npy")


def test_a_damaged_archive_with_lzma_compression(problem, folder, capsys):
    with zipfile.ZipFile(folder / "z.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(folder / "z.npy", "logits.npy")
    damaged = bytearray((folder / "z.npz").read_bytes())
    damaged[1000:1100] = bytes(100)
    (folder / "z.npz").write_bytes(damaged)
    assert "z.npz is not a valid .npz file" in refused(capsys, 1, "z.npz", "y.npy")


def test_a_closed_output(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        command_line.main(["evaluate", "z.npy", "y.npy"])
    assert ended.value.code == 1
    assert "standard output is closed" in capsys.readouterr().err


def test_the_position_of_a_bad_label_is_that_in_the_file(problem, folder, capsys, monkeypatch):
    y = problem[1]
    y[777] = 7
    np.save(folder / "y.npy", y)
    monkeypatch.setattr(command_line, "BLOCK_BYTES", 7 * 4 * 50)
    assert "the label 7 at position 777" in refused(capsys, 1, "z.npy", "y.npy")


def test_files_that_are_none(folder, capsys):
    files = ("a.npy", b""), ("b.npy", b"hello, world"), ("c.npz", b""), ("d.npz", b"no arrays")
    for name, content in files:
        (folder / name).write_bytes(content)
        assert f"{name} is not a valid {name[1:]} file" in refused(capsys, 1, name, "y.npy")
    np.savez(folder / "none.npz")
    assert "none.npz has no arrays" in refused(capsys, 1, "none.npz", "y.npy")
    (folder / "a.npz").write_bytes((folder / "y.npy").read_bytes())
    assert "a.npz is not a valid .npz file" in refused(capsys, 1, "a.npz", "y.npy")
    with zipfile.ZipFile(folder / "text.npz", "w") as archive:
        archive.writestr("logits", "no array")
    assert "a row for each label, got shape ()" in refused(capsys, 1, "text.npz", "y.npy")


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_damaged_files(kind, problem, folder, capsys, rng):
    """With one byte changed, a file is evaluated or refused, without a traceback."""
    name = f"damaged.{kind[:3] if kind == 'npy' else 'npz'}"
    {"npy": np.save, "npz": np.savez, "compressed": np.savez_compressed}[kind](name, problem[0])
    whole = (folder / name).read_bytes()
    refusals = 0
    for turn in range(200):
        changed = bytearray(whole)
        at = int(rng.integers(150))  # the header, or the directory at the end
        changed[at if turn % 2 or kind == "npy" else -1 - at] = rng.integers(256)
        (folder / name).write_bytes(changed)
        try:
            command_line.main(["evaluate", name, "y.npy"])
        except SystemExit as ended:
            assert ended.code == 1
            assert capsys.readouterr().err.startswith("fastce evaluate: ")
            refusals += 1
    assert refusals > 20


@pytest.mark.parametrize(
    "options",
    [["--dtype", "float32", "--classes", "7"], ["--classes", "7"], ["--labels-dtype", "int64"]],
)
def test_options_of_raw_files(options, folder, capsys):
    """They are not ignored if the file itself says what it holds."""
    assert "does not apply to" in refused(capsys, 2, "z.npy", "y.npy", *options)
    assert "does not apply to" in refused(capsys, 2, "z.npy", "y.npy", "--labels-key", "a")


@pytest.mark.parametrize("dtype", ["O", "S4", "i4,f4", "M8[s]", "complex64"])
def test_raw_numbers_of_other_kinds(dtype, folder, capsys):
    (folder / "z.bin").write_bytes(bytes(900 * 7 * 8))
    said = refused(capsys, 2, "z.bin", "y.npy", "--dtype", dtype, "--classes", "7")
    assert "is not a floating-point dtype" in said
    said = refused(capsys, 2, "z.npy", "z.bin", "--labels-dtype", dtype)
    assert "is not an integer dtype" in said


@pytest.mark.parametrize("dtype", [",,", "(1,f4", "f3", "no type"])
def test_dtypes_that_are_none(dtype, folder, capsys):
    (folder / "z.bin").write_bytes(bytes(7 * 4))
    said = refused(capsys, 2, "z.bin", "y.npy", "--dtype", dtype, "--classes", "7")
    assert f"{dtype!r} is not a dtype" in said


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_a_file_without_rows(folder, capsys):
    os.mkfifo(folder / "pipe")
    message = refused(capsys, 1, "pipe", "y.npy", "--dtype", "float32", "--classes", 7)
    assert "pipe is not a regular file" in message


def test_a_picture_that_matplotlib_cannot_draw(problem, folder, capsys, monkeypatch):
    """Such as .pgf without TeX."""
    figure = pytest.importorskip("matplotlib.figure").Figure

    def savefig(self, path):
        raise RuntimeError("xelatex not found")

    monkeypatch.setattr(figure, "savefig", savefig)
    with pytest.raises(SystemExit) as ended:
        command_line.main(["evaluate", "z.npy", "y.npy", "--plot", "x.pgf"])
    assert ended.value.code == 1
    assert "x.pgf cannot be drawn: xelatex not found" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written(folder, capsys, monkeypatch):
    """The error comes before anything is read."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(command_line, "read", None)
    assert "--plot must end in one of" in refused(capsys, 2, "z.npy", "y.npy", "--plot", "x.xyz")
    said = refused(capsys, 2, "z.npy", "y.npy", "--plot", "nowhere/x.png")
    assert "--plot: there is no folder nowhere" in said
