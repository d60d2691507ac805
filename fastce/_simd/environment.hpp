// What kernels need from the processor apart from arithmetic. Included by simd.hpp.
#pragma once

#include <cfenv>

#include "simd.hpp"

namespace {
namespace simd {

// ----------------------------------------------------------------------------------- prefetching

// Prefetch a cache line: into the second-level cache to be read, into the first-level cache to be written.
enum { cache_line = 64 };
FASTCE_INLINE void prefetch(const void *at) {
#if FASTCE_GNU
    __builtin_prefetch(at, 0, 2);
#else
    (void)at;
#endif
}
FASTCE_INLINE void prefetch_to_write(const void *at) {
#if FASTCE_GNU
    __builtin_prefetch(at, 1, 3);
#else
    (void)at;
#endif
}

// Copies numbers `first` to `stop`. Whole cache lines are written past the caches, so they are not read before they are
// written. Returns where it stopped: `stop`, or with `whole_lines` the end of the last whole line.
template <class T>
FASTCE_INLINE std::ptrdiff_t stream(T *to, const T *from, std::ptrdiff_t first, std::ptrdiff_t stop,
                                    bool whole_lines) {
#if defined(__SSE2__) && FASTCE_GNU && FASTCE_VECTOR_BYTES && \
    !(FASTCE_VECTOR_BYTES == 64 && !defined(__AVX512F__))
    const std::ptrdiff_t line = cache_line / std::ptrdiff_t(sizeof(T));
    const std::ptrdiff_t past_line = reinterpret_cast<std::uintptr_t>(to + first) % cache_line;
    if (past_line % sizeof(T) == 0) {
        if (past_line) {
            const std::ptrdiff_t left = line - past_line / std::ptrdiff_t(sizeof(T));
            const std::ptrdiff_t count = left < stop - first ? left : stop - first;
            std::memcpy(to + first, from + first, std::size_t(count) * sizeof(T));
            first += count;
        }
#pragma GCC unroll 8
        for (; first + line <= stop; first += line)
            for (std::ptrdiff_t k = first; k < first + line; k += vec<T>::lanes) {
                const auto x = bit_cast<typename native_of<float>::type>(load(from + k).v);
                float *at = reinterpret_cast<float *>(to + k);
#if FASTCE_VECTOR_BYTES == 64
                _mm512_stream_ps(at, x);
#elif FASTCE_VECTOR_BYTES == 32
                _mm256_stream_ps(at, x);
#else
                _mm_stream_ps(at, x);
#endif
            }
        if (whole_lines)
            return first;
    }
#else
    (void)whole_lines;
#endif
    std::memcpy(to + first, from + first, std::size_t(stop - first) * sizeof(T));
    return stop;
}
// Makes the streamed numbers visible to other threads.
FASTCE_INLINE void end_streams() {
#if defined(__SSE2__) && FASTCE_GNU
    _mm_sfence();
#endif
}

// ------------------------------------------------------------------------ floating-point environment

// Kernels run with rounding to nearest, with subnormal numbers and without traps, whatever the caller has set. They
// leave the caller's control word and exception flags as they were: the polynomials raise "inexact" and "underflow",
// and NumPy would report flags that it did not raise itself.
class DefaultEnvironment {
public:
#if defined(__SSE2__) && FASTCE_GNU
    DefaultEnvironment() : saved(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~DefaultEnvironment() { _mm_setcsr(saved); }
    void enter() {}  // Cython omits an object that is never used

private:
    unsigned saved;
#else
    DefaultEnvironment() {
        std::fegetenv(&saved);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultEnvironment() { std::fesetenv(&saved); }
    void enter() {}

private:
    std::fenv_t saved;
#endif
};

}  // namespace simd
}  // namespace
