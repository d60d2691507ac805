# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=False
"""Kernels of fastce: compiled once an instruction set, from this source.

Python never sees a pointer: a run holds the arrays of one call, and is told which rows to do. The
arrays have been checked before (see _checks.py and _evaluate.py).
"""

import numpy as np

cimport cython
cimport numpy as cnp
from libc.math cimport INFINITY, NAN
from libc.math cimport fabs, log2
from libc.math cimport pow as scalar_pow
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastce.simd cimport *

cnp.import_array()

include "_kernels/batch.pxi"
include "_kernels/dispatch.pxi"
include "_kernels/labels.pxi"
include "_kernels/conversion.pxi"
include "_kernels/passes.pxi"
include "_kernels/formulas.pxi"
include "_kernels/packing.pxi"
include "_kernels/run_passes.pxi"
include "_kernels/exponentials.pxi"
include "_kernels/sums.pxi"
include "_kernels/long_rows.pxi"
include "_kernels/pivots.pxi"
include "_kernels/block.pxi"
include "_kernels/shards.pxi"
include "_numbers.pxi"
include "_sigmoid_kernel.pxi"
include "_sigmoid_checks.pxi"


cdef extern from *:
    """
    #if defined(__GNUC__) && defined(__x86_64__)
    #include <cpuid.h>
    // The builtins ask the operating system too; they do not all know F16C, hence its bit of cpuid.
    static int has_avx2(void) {
        unsigned a, b, c = 0, d;
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
    }
    static int has_avx512(void) {
        return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    }
    #else
    static int has_avx2(void) { return 0; }
    static int has_avx512(void) { return 0; }
    #endif
    #if defined(__GNUC__)
    #define FASTCE_COMPILER __VERSION__
    #else
    #define FASTCE_COMPILER "unknown"
    #endif
    """
    const char* FASTCE_COMPILER
    bint has_avx2()
    bint has_avx512()


def supported():
    """Name the variants that the processor and the operating system can run."""
    return ("baseline", "scalar") + (("avx2", "wide") if has_avx2() else ()) + (
        ("avx512",) if has_avx512() else ())


LANES = lanes(<float> 0)
"""float32 elements in a vector of this variant."""
COMPILER = (<bytes> FASTCE_COMPILER).decode()
"""The compiler's version."""


cdef enum:
    NO_STORAGE = -1

cdef inline int known_storage(cnp.ndarray array):
    # bfloat16 is a type that ml_dtypes registers with NumPy: it is known by its name.
    cdef int number = cnp.PyArray_TYPE(array)
    if number == cnp.NPY_FLOAT32:
        return FLOAT32
    if number == cnp.NPY_FLOAT64:
        return FLOAT64
    if number == cnp.NPY_FLOAT16:
        return FLOAT16
    if cnp.PyTypeNum_ISUSERDEF(number) and array.dtype.type.__name__ == "bfloat16":
        return BFLOAT16
    return NO_STORAGE


cdef int storage_of(cnp.ndarray array) except -1:
    cdef int storage = known_storage(array)
    if storage == NO_STORAGE:
        raise AssertionError(f"no kernel for {array.dtype}")
    return storage


cdef Matrix matrix_of(array) except *:
    # A (rows, classes) or (outer, inner, classes) array.
    cdef Matrix matrix
    cdef cnp.ndarray a
    memset(&matrix, 0, sizeof(matrix))
    matrix.inner = 1
    if array is None:
        return matrix
    a = array
    cdef int last = cnp.PyArray_NDIM(a) - 1
    matrix.data = <char*> cnp.PyArray_DATA(a)
    matrix.storage = FLOAT32 if cnp.PyArray_TYPE(a) == cnp.NPY_BOOL else storage_of(a)
    matrix.class_stride = cnp.PyArray_STRIDE(a, last)
    if cnp.PyArray_DIM(a, last) <= 1:
        matrix.class_stride = cnp.PyArray_ITEMSIZE(a)
    matrix.row_stride = cnp.PyArray_STRIDE(a, last - 1)
    matrix.inner = max_size(cnp.PyArray_DIM(a, last - 1), 1)
    matrix.outer_stride = cnp.PyArray_STRIDE(a, 0) if last == 2 else 0
    return matrix


cdef int set_labels(Labels* labels, cnp.ndarray array) except -1:
    labels.data = <char*> cnp.PyArray_DATA(array)
    labels.itemsize = <int> cnp.PyArray_ITEMSIZE(array)
    labels.unsigned = cnp.PyTypeNum_ISUNSIGNED(cnp.PyArray_TYPE(array))
    labels.stride = cnp.PyArray_STRIDE(array, 0)
    return 0


cdef char* data_of(array) except? NULL:
    if array is None:
        return NULL
    return <char*> cnp.PyArray_DATA(<cnp.ndarray> array)


cdef Scalars scalars_of(array) except *:
    # One number a row.
    cdef Scalars scalars
    cdef cnp.ndarray a
    memset(&scalars, 0, sizeof(scalars))
    if array is not None:
        a = array
        scalars.data = <char*> cnp.PyArray_DATA(a)
        scalars.storage = storage_of(a)
        scalars.stride = cnp.PyArray_STRIDE(a, 0)
    return scalars


include "_entries.pxi"


cdef enum:
    MEAN = 0
    SUM = 1
    NONE = 2

REDUCTIONS = {"mean": MEAN, "sum": SUM, "none": NONE}


cdef int check_status(int status) except -1:
    if status == BAD_LABEL:
        raise RuntimeError("target was changed by another thread during the call")
    if status == NO_MEMORY:
        raise MemoryError("no memory for the scratch space of a kernel")
    return 0


KINDS = {"cross_entropy": CROSS_ENTROPY, "focal": FOCAL, "logsumexp": LOG_SUM_EXP,
         "log_softmax": LOG_SOFTMAX}


include "_sigmoid_calls.pxi"
include "_softmax_calls.pxi"


def overflows(SoftmaxKernel kernel, cnp.ndarray logits):
    """Return whether a finite logit of a contiguous array becomes infinite by the kernel's scale."""
    cdef bint found
    cdef int storage = storage_of(logits)
    with nogil:
        found = scale_overflows(<const char*> cnp.PyArray_DATA(logits), storage, cnp.PyArray_SIZE(logits),
                                kernel.options.logit_scale, kernel.options.softcap)
    return found


def weigh(SoftmaxKernel kernel, Py_ssize_t classes, cnp.ndarray labels, sample_weight):
    """Check labels, and add up the weights of their rows.

    Returns the sum, whether a weight is not 0, and the position of the first bad label or -1.
    """
    cdef Batch batch = kernel.options
    cdef WeightSum weights
    cdef Py_ssize_t position = -1, rows = cnp.PyArray_DIM(labels, 0)
    batch.classes = classes
    set_labels(&batch.labels, labels)
    batch.sample_weight = scalars_of(sample_weight)
    with nogil:
        if weigh_labels(&batch, rows, &weights, &position) != OK:
            memset(&weights, 0, sizeof(weights))
    return weights.total, weights.any_counts, position


@cython.final
cdef class SoftmaxRun:
    """The arrays of one call, (rows, classes) or (outer, inner, classes); does rows on demand."""

    cdef Batch batch
    cdef bint double_precision
    cdef tuple arrays  # keeps the memory alive

    def __init__(self, SoftmaxKernel kernel, double scale, cnp.ndarray logits, labels=None,
                 probabilities=None, mask=None, sample_weight=None, grad_output=None, loss=None,
                 grad=None, hess=None, log_sum_exp=None, argmax=None, maximum=None, others=None,
                 target_logit=None, soft_distance=None):
        self.batch = kernel.options
        self.batch.scale = scale
        self.batch.classes = cnp.PyArray_DIM(logits, cnp.PyArray_NDIM(logits) - 1)
        self.batch.logits = matrix_of(logits)
        self.batch.probabilities = matrix_of(probabilities)
        self.batch.mask = matrix_of(mask)
        self.batch.grad = matrix_of(grad)
        self.batch.streams = grad is not None and cnp.PyArray_NBYTES(<cnp.ndarray> grad) >= STREAM_BYTES
        self.batch.hess = matrix_of(hess)
        self.batch.sample_weight = scalars_of(sample_weight)
        self.batch.grad_output = scalars_of(grad_output)
        self.double_precision = self.batch.logits.storage == FLOAT64
        soft_weight = None
        if labels is not None:
            set_labels(&self.batch.labels, labels)
            if kernel.options.label_smoothing != 0.0 and self.batch.classes:
                soft_weight = kernel.soft_weight(self.batch.classes, self.double_precision)
                self.batch.soft_weight = cnp.PyArray_DATA(<cnp.ndarray> soft_weight)
        self.batch.loss = data_of(loss)
        self.batch.log_sum_exp = data_of(log_sum_exp)
        self.batch.argmax = <long long*> data_of(argmax)
        self.batch.maximum = <double*> data_of(maximum)
        self.batch.others = <double*> data_of(others)
        self.batch.target_logit = <double*> data_of(target_logit)
        self.batch.soft_distance = <double*> data_of(soft_distance)
        self.arrays = (kernel, logits, labels, probabilities, mask, sample_weight, grad_output, loss,
                       grad, hess, log_sum_exp, argmax, maximum, others, target_logit, soft_distance,
                       soft_weight)

    def __call__(self, Py_ssize_t start, Py_ssize_t stop, double total=0.0):
        """Do the rows [start, stop); return total plus the sum of their losses."""
        cdef int status
        with nogil:
            status = run_softmax(&self.batch, start, stop, self.double_precision, &total)
        check_status(status)
        return total


cdef SoftmaxRun run_of(const Batch* batch, bint double_precision, tuple arrays):
    # Of a batch that has been set.
    cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
    run.batch = batch[0]
    run.double_precision = double_precision
    run.arrays = arrays
    return run


cdef int run_softmax(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, bint double_precision,
                     double* total) noexcept nogil:
    cdef DefaultEnvironment environment
    environment.enter()
    if double_precision:
        return run_planned(batch, start, stop, <double> 0, total)
    return run_planned(batch, start, stop, <float> 0, total)


cdef int run_planned(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, real tag,
                     double* total) noexcept nogil:
    cdef int plan = plan_of_batch(batch, tag)
    return run_blocks(batch, start, stop, plan, tag, total)


include "_shard_calls.pxi"
include "_elementary.pxi"
include "_interface.pxi"
