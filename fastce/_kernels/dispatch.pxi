# The plan of each batch of a softmax loss: which kernel computes it, and how its scratch is packed. All thresholds are
# here. To measure one again, compare two builds at numbers of classes K on both sides of it, with `python -m
# bench.cliffs --only softmax --classes K,K`. Those below were set with AVX-512 on Zen 4, on one thread.
# Needs batch.pxi.

cdef enum:  # plans
    BLOCK_BY_ROWS = 0      # many rows at once, packed one after another
    BLOCK_INTERLEAVED = 1  # rows of few classes, packed class by class
    BLOCK_BY_PLANES = 2    # neighbouring rows are contiguous and classes are not: packed class by class

PLANS = ("block by rows", "block interleaved", "block by planes")
"""The names of the plans, by number."""

cdef enum:
    INTERLEAVED_CLASSES = 6  # largest number of classes that are packed class by class: with 6, the float32 gradient
    #                          takes 1.15 ns per element this way and 1.22 by rows, the Hessian 2.1 and 3.0
    TOKEN_CLASSES = 20       # the same for token_log_probs and the statistics of rows: with 10 classes they take 0.81
    #                          and 1.31 ns per element this way, and 1.07 and 3.2 by rows; with 24, 0.60 and 0.90, and
    #                          0.60 and 1.62 by rows
    INTERLEAVED_ROWS = 256   # rows of a run with so few classes
    SPREAD_CLASSES = 24      # largest number of classes for which a lookup spreads numbers of rows over vectors
    BLOCK_BYTES = 16384      # size of a block of longer rows, if it holds at least LEAST_ROWS of them: with 8 KB, 64
    #                          classes take 4 % longer, 300 and 1,000 classes 6 to 9 %
    LEAST_ROWS = 4
    LARGEST_BLOCK_BYTES = 16384  # its size if it holds fewer; a longer row is a run by itself, summed in chunks
    STATISTICS_BYTES = 12288  # size of a block whose statistics are wanted, because they read the logits again: 1,000
    #                          classes of float64 take 1.4 ns per element, and 2.3 with 16 KB
    CHUNK = 2048             # elements of a chunk: 8 KB of float32 logits and 8 KB of exponentials
    SHORT_ROW = 256          # largest number of classes of rows whose losses are added up by blocks; those of longer
    #                          rows are added one by one, so that a task may begin at any row
    PLANE_ROW_BYTES = 4096   # size of a class in a run of planes: with 8 KB, the numbers of the rows do not stay in the
    #                          fastest cache, and float64 takes 10 to 20 % longer
    PLANE_BYTES = 1048576    # size of all classes of such a run, unless one of the next three limits applies
    LEAST_PLANE_ROWS = 128   # fewest rows of a run without scratch: distant cache lines cost more than the cache
    #                          saves. 64 class-major rows of 32,769 classes take 0.40 ns per element in one run,
    #                          1.15 in runs of 16; 128 rows take 0.48 in one, 0.67 in runs of 64, 3.3 in runs of 16
    LEAST_SCRATCH_ROWS = 64  # fewest rows of a run with scratch, unless the next limit requires fewer
    LARGEST_PLANE_BYTES = 10485760  # of a run with scratch: allocations of 32 MB and more are mapped anew on each call
    CLASSES_TOGETHER = 16    # classes of a run that are summed while they are in the cache: an even number, because
    #                          floats are added in pairs
    PART_ELEMENTS = 32768    # elements of a part of a run of planes: some classes, filled and emptied before the next
    STREAMED_ROW_BYTES = 65536  # largest row that is streamed from scratch past the caches
    ROWS_AHEAD = 2048        # elements from a logit to the one that is prefetched at the same time
    PLANE_AHEAD = 512        # elements from a logit of a plane to the prefetched one, of another class
    GROUPS_AHEAD = 4         # vectors of rows from those that are transposed to those that are prefetched
    DIVERGENCE_CLASSES = 128   # largest number of classes that the divergence packs class by class: 100 take 1.04 ns
    #                          per element this way and 1.28 by rows (with AVX2 1.55 and 1.41)
    DIVERGENCE_ELEMENTS = 16384  # elements of a block of its rows: with 4,096, rows of 1,000 classes take 5 % longer
    DIVERGENCE_ROWS = 32     # fewest rows of a block that it packs class by class
    DIVERGENCE_PART = 8192   # elements of a part of a long row
    GATHERED_ELEMENTS = 32768  # elements of a gathered block, unless a row has more: 256 KB of float32 with outputs


cdef inline int plan_of_batch(const Batch* batch, real tag) noexcept nogil:
    if is_plane(&batch.logits) and batch.classes < (1 << 24):  # class indices are compared as floats
        return BLOCK_BY_PLANES
    if batch.classes <= (INTERLEAVED_CLASSES if batch.argmax == NULL else TOKEN_CLASSES):
        return BLOCK_INTERLEAVED
    return BLOCK_BY_ROWS


def thresholds():
    """Return the sizes at which a plan, a packing or a kernel's path changes: for tests, and for the rows of shards.

    Prefetch distances affect none of these and are left out.
    """
    return {
        "interleaved classes": INTERLEAVED_CLASSES,
        "token classes": TOKEN_CLASSES,
        "interleaved rows": INTERLEAVED_ROWS,
        "spread classes": SPREAD_CLASSES,
        "block bytes": BLOCK_BYTES,
        "least rows": LEAST_ROWS,
        "largest block bytes": LARGEST_BLOCK_BYTES,
        "statistics bytes": STATISTICS_BYTES,
        "chunk": CHUNK,
        "short row": SHORT_ROW,
        "streamed row bytes": STREAMED_ROW_BYTES,
        "plane row bytes": PLANE_ROW_BYTES,
        "plane bytes": PLANE_BYTES,
        "part elements": PART_ELEMENTS,
        "least plane rows": LEAST_PLANE_ROWS,
        "least scratch rows": LEAST_SCRATCH_ROWS,
        "largest plane bytes": LARGEST_PLANE_BYTES,
        "classes together": CLASSES_TOGETHER,
        "block rows": BLOCK_ROWS,
        "gathered elements": GATHERED_ELEMENTS,
        "divergence classes": DIVERGENCE_CLASSES,
        "divergence elements": DIVERGENCE_ELEMENTS,
        "divergence rows": DIVERGENCE_ROWS,
        "divergence part": DIVERGENCE_PART,
    }
