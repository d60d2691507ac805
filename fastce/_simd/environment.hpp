// What kernels ask of the processor besides arithmetic. Included by simd.hpp.
#pragma once

#include <cfenv>

#include "simd.hpp"

namespace {
namespace simd {

// -------------------------------------------------------------------------------------- fetching

// Starts to fetch a cache line that will be read, into the second-level cache, or written, into the first.
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

// Copies numbers `first` to `stop`, past the caches where they fill whole lines: those are not read before
// they are written. Returns up to where: to `stop`, or with `whole_lines` to the end of the last line.
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
// Other threads see what was streamed from here on.
FASTCE_INLINE void end_streams() {
#if defined(__SSE2__) && FASTCE_GNU
    _mm_sfence();
#endif
}

// ------------------------------------------------------------------------ floating-point environment

// Kernels run with nearest rounding, subnormal numbers and no traps, whatever the caller has set, and
// leave its control word and exception flags as they were: the polynomials raise "inexact" and
// "underflow", and NumPy would report flags that it did not raise itself.
class DefaultEnvironment {
public:
#if defined(__SSE2__) && FASTCE_GNU
    DefaultEnvironment() : saved(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~DefaultEnvironment() { _mm_setcsr(saved); }
    void enter() {}  // Cython leaves out an object that nothing uses

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
