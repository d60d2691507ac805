# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=False, freethreading_compatible=True
"""Kernels of fastce: compiled once an instruction set, from this source.

Python never sees a pointer: a run holds the arrays of one call, and is told which rows to do. The
arrays have been checked before (see _checks.py and _evaluate.py).
"""

from functools import partial

import numpy as np

from fastce import _checks, _layout, _parallel

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
    #if FASTCE_GNU && defined(__x86_64__)
    #include <cpuid.h>
    // Asked here, not by builtins: those need a library that clang-cl does not link, and do not all know F16C.
    static inline int has_bits(unsigned number, unsigned bits) { return (number & bits) == bits; }
    // What the operating system saves of a thread's registers.
    static inline unsigned saved_state(void) {
        unsigned low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return low;
    }
    static int has_avx2(void) {
        unsigned a, b, c, d;
        if (!__get_cpuid(1, &a, &b, &c, &d) || !has_bits(c, bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C))
            return 0;
        if (!has_bits(saved_state(), 0x6))  // SSE, AVX
            return 0;
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) && has_bits(b, bit_AVX2);
    }
    static int has_avx512(void) {
        unsigned a, b, c, d;
        if (!has_avx2() || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
            return 0;
    #if !defined(__APPLE__)  // macOS begins to save them when they are first used
        if (!has_bits(saved_state(), 0xe6))
            return 0;
    #endif
        return has_bits(b, bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL);
    }
    #else
    static int has_avx2(void) { return 0; }
    static int has_avx512(void) { return 0; }
    #endif
    #if FASTCE_GNU
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


# Of the arrays of a shard: to go when its run takes them as SoftmaxRun does.

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


cdef int raise_changed(str name) except -1:
    raise RuntimeError(f"{name} was changed by another thread during the call")


cdef int check_status(int status) except -1:
    if status == BAD_LABEL:
        raise_changed("target")
    if status == NO_MEMORY:
        raise MemoryError("no memory for the scratch space of a kernel")
    return 0


KINDS = {"cross_entropy": CROSS_ENTROPY, "focal": FOCAL, "logsumexp": LOG_SUM_EXP,
         "log_softmax": LOG_SOFTMAX}


include "_sigmoid_calls.pxi"
include "_softmax_arrays.pxi"
include "_softmax_checks.pxi"
include "_softmax_run.pxi"
include "_softmax_calls.pxi"


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
