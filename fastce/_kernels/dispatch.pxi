# One plan for each batch of a softmax loss: which kernel takes it, and how its scratch is packed. All thresholds
# stand here. To measure one again, compare two builds by `python -m bench.cliffs --only softmax --classes K,K`, on both
# sides of it; those below were set with AVX-512 on Zen 4, on one thread.
# Needs batch.pxi.

cdef enum:  # plans
    BLOCK_BY_ROWS = 0      # many rows at once, packed one behind the other
    BLOCK_INTERLEAVED = 1  # rows of few classes, packed class by class
    BLOCK_BY_PLANES = 2    # the classes are not contiguous, neighbouring rows are: packed class by class

PLANS = ("block by rows", "block interleaved", "block by planes")
"""The plans by their numbers."""

cdef enum:
    INTERLEAVED_CLASSES = 6  # the most classes of a row that is packed class by class: with 6, the gradient of float32
    #                          takes 1.15 ns per element so, and 1.22 by rows, the Hessian 2.1 and 3.0
    INTERLEAVED_ROWS = 256   # of a run of them
    SPREAD_CLASSES = 24      # the most classes for which a look-up spreads the numbers of rows over vectors
    BLOCK_BYTES = 16384      # of a block of longer rows, if these are at least LEAST_ROWS: with 8 KB, 64 classes take
    #                          4 % more time, 300 and 1,000 classes 6 to 9 %
    LEAST_ROWS = 4
    LARGEST_BLOCK_BYTES = 16384  # if fewer rows do; a longer row is a run of its own, and is summed up in chunks
    STATISTICS_BYTES = 12288  # of a block whose statistics are wanted: its logits are read once more. With 16 KB, 1,000
    #                          classes of float64 take 2.3 ns per element, and 1.4 with this
    CHUNK = 2048             # elements of a chunk: 8 KB of float32 logits beside 8 KB of exponentials
    SHORT_ROW = 256          # the most classes of a row whose loss is added up in blocks; losses of longer
    #                          rows are added one by one, so that a task may begin at any row
    PLANE_ROWS = 1024        # of a run of planes: 4 KB of float32 of each class
    PLANE_BYTES = 1048576    # of all classes of a run, if these leave it
    LEAST_PLANE_ROWS = 128   # so many rows, if no scratch is needed for them: lines far apart cost more than the
    #                          cache saves. 64 class-major rows of 32,769 classes take 0.40 ns per element at once,
    #                          1.15 in runs of 16; 128 rows take 0.48, 0.67 in runs of 64, 3.3 in runs of 16
    LEAST_SCRATCH_ROWS = 64  # so many rows otherwise, as long as
    LARGEST_PLANE_BYTES = 10485760  # hold them: memory of 32 MB and more is new to the process at each call
    CLASSES_TOGETHER = 16    # of a run that are summed up while they are in the cache: always so many, for the
    #                          bits of a row's sum must not depend on the size of its run
    STREAMED_ROW_BYTES = 65536  # of one row, which waits in scratch to go past the caches
    ROWS_AHEAD = 2048        # elements from a logit to the one that is prefetched meanwhile
    PLANE_AHEAD = 512        # elements from a logit of a plane to the one of another class that is prefetched meanwhile
    GATHERED_ELEMENTS = 32768  # of a gathered block, or one row: with one of outputs beside it, 256 KB of float32


cdef inline int plan_of_batch(const Batch* batch, real tag) noexcept nogil:
    if is_plane(&batch.logits) and batch.classes < (1 << 24):  # class indices are compared in float
        return BLOCK_BY_PLANES
    return BLOCK_INTERLEAVED if batch.classes <= INTERLEAVED_CLASSES else BLOCK_BY_ROWS


def thresholds():
    """Return the sizes at which plans, packings and ways of a kernel change: for tests, and for the rows of shards."""
    return {
        "interleaved classes": INTERLEAVED_CLASSES,
        "interleaved rows": INTERLEAVED_ROWS,
        "spread classes": SPREAD_CLASSES,
        "block bytes": BLOCK_BYTES,
        "least rows": LEAST_ROWS,
        "largest block bytes": LARGEST_BLOCK_BYTES,
        "chunk": CHUNK,
        "streamed row bytes": STREAMED_ROW_BYTES,
        "plane rows": PLANE_ROWS,
        "plane bytes": PLANE_BYTES,
        "classes together": CLASSES_TOGETHER,
        "block rows": BLOCK_ROWS,
        "gathered elements": GATHERED_ELEMENTS,
    }
