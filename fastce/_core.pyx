# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=False, freethreading_compatible=True
"""Kernels of fastce, compiled from this source once per instruction set.

Python never sees a pointer: a run holds the arrays of one call, and is told which rows to process. Arguments are
checked before a kernel reads them: by the entries (see _kernels/entries.pxi), or by _call/.
"""

from functools import partial

import numpy as np

from fastce._call import checks, layout, threads

cimport cython
cimport numpy as cnp
from libc.math cimport INFINITY, NAN
from libc.math cimport fabs, frexp
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastce._simd cimport *

cnp.import_array()

include "_kernels/batch.pxi"
include "_kernels/labels.pxi"
include "_kernels/rows.pxi"
include "_kernels/dispatch.pxi"
include "_kernels/conversion.pxi"
include "_kernels/passes.pxi"
include "_kernels/formulas.pxi"
include "_kernels/packing.pxi"
include "_kernels/run_passes.pxi"
include "_kernels/exponentials.pxi"
include "_kernels/sums.pxi"
include "_kernels/statistics.pxi"
include "_kernels/long_rows.pxi"
include "_kernels/pivots.pxi"
include "_kernels/coefficients.pxi"
include "_kernels/scratch.pxi"
include "_kernels/derivatives.pxi"
include "_kernels/block.pxi"
include "_kernels/divergence_rows.pxi"
include "_kernels/divergence_results.pxi"
include "_kernels/divergence_careful.pxi"
include "_kernels/divergence_shards.pxi"
include "_kernels/divergence.pxi"
include "_kernels/softmax.pxi"
include "_kernels/shards.pxi"
include "_kernels/arrays.pxi"
include "_kernels/numbers.pxi"
include "_kernels/sigmoid_formulas.pxi"
include "_kernels/sigmoid_chunks.pxi"
include "_kernels/sigmoid_checks.pxi"
include "_kernels/sigmoid.pxi"
include "_kernels/entries.pxi"
include "_kernels/sigmoid_calls.pxi"
include "_kernels/softmax_options.pxi"
include "_kernels/softmax_arrays.pxi"
include "_kernels/softmax_checks.pxi"
include "_kernels/softmax_run.pxi"
include "_kernels/softmax_calls.pxi"
include "_kernels/shard_calls.pxi"
include "_kernels/hessian_floor.pxi"
include "_kernels/elementary.pxi"
include "_kernels/c_interface.pxi"
include "_kernels/xla_calls.pxi"


cdef extern from *:
    """
    #if FASTCE_GNU && defined(__x86_64__)
    #include <cpuid.h>
    // Not by builtins: they need a library that clang-cl does not link, and not all of them know F16C.
    static inline int has_bits(unsigned number, unsigned bits) { return (number & bits) == bits; }
    // The kinds of registers that the operating system saves for each thread.
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
