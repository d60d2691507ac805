"""Sizes on both sides of every threshold, taken from the core, so that they move with it."""

from __future__ import annotations

from cases import DTYPES

from fastce._call import variants

SIZES = variants.core.thresholds()
CHUNK = variants.core.ELEMENTS_CHUNK  # elements of a chunk of the sigmoid losses


def is_long(classes, dtype):
    return classes * max(dtype.itemsize, 4) > SIZES["largest block bytes"]


def class_counts(layout, dtype):
    """On both sides of every threshold of the plans."""
    size = max(DTYPES[dtype].itemsize, 4)
    few, spread = SIZES["interleaved classes"], SIZES["spread classes"]
    if layout == "planes":
        together = SIZES["classes together"]
        full = SIZES["plane bytes"] // SIZES["plane row bytes"]
        least = SIZES["plane bytes"] // size // SIZES["least plane rows"]
        scratch = SIZES["plane bytes"] // size // SIZES["least scratch rows"]
        return (
            *(2, few, few + 1, together, together + 1, spread + 1),
            *(full, full + 1, least + 1, scratch + 1),
        )
    block, long = SIZES["block bytes"] // size, SIZES["largest block bytes"] // size
    return (
        *(1, 2, 3, few),
        *(few + 1, spread, spread + 1),
        *(block // SIZES["block rows"] + more for more in (-1, 0, 1)),
        SIZES["short row"] + 1,
        block // SIZES["least rows"] + 1,
        *(long, long + 1, long + SIZES["chunk"] + 1),
    )


def rows_of_run(classes, layout, dtype):
    """The most rows of a block, and how many positions of a row a kernel can tell apart."""
    size = max(DTYPES[dtype].itemsize, 4)
    if layout == "planes":
        # A vector has up to 16 lanes; the numbers of rows are finished by blocks.
        period = SIZES["block rows"] if classes <= SIZES["spread classes"] else 16
        return rows_of_planes(classes, size, scratch=False), period
    if classes <= SIZES["interleaved classes"]:
        return SIZES["interleaved rows"], SIZES["block rows"]
    rows = SIZES["block rows"]
    while rows > 1 and rows * classes * size > SIZES["block bytes"]:
        rows //= 2
    return rows, rows


# Planes so long that a run has few rows: whether they go through scratch, and what decides it.
LONG_PLANES = [
    (False, "plane bytes", "least plane rows"),
    (True, "plane bytes", "least scratch rows"),
    (True, "largest plane bytes", "least scratch rows"),
]


def long_planes(scratch, most, least):
    """(rows, classes) of float32 of a full run and a row more, on both sides of a threshold."""
    for classes in (SIZES[most] // 4 // SIZES[least] + more for more in (0, 1)):
        yield rows_of_planes(classes, 4, scratch=scratch) + 1, classes


def rows_of_planes(classes, size, *, scratch):
    """Rows of a run of planes, which is longer if its elements need no other memory."""
    rows = SIZES["plane row bytes"] // size
    least = SIZES["least scratch rows" if scratch else "least plane rows"]
    while (rows > least and rows * classes * size > SIZES["plane bytes"]) or (
        scratch and rows * classes * size > SIZES["largest plane bytes"]
    ):
        rows //= 2
    return rows
