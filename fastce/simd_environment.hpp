// What kernels ask of the processor besides arithmetic. Included by simd.hpp.
#pragma once

#include <cfenv>

#include "simd.hpp"

namespace {
namespace simd {

// -------------------------------------------------------------------------------------- fetching

// Starts to fetch a cache line that will be read, into the second-level cache, or written, into the first.
enum { cache_line = 64 };
FASTCE_INLINE void fetch(const void *at) {
#if defined(__GNUC__)
    __builtin_prefetch(at, 0, 2);
#else
    (void)at;
#endif
}
FASTCE_INLINE void fetch_to_write(const void *at) {
#if defined(__GNUC__)
    __builtin_prefetch(at, 1, 3);
#else
    (void)at;
#endif
}

// ------------------------------------------------------------------------ floating-point environment

// Kernels run with nearest rounding, subnormal numbers and no traps, whatever the caller has set, and
// leave its control word and exception flags as they were: the polynomials raise "inexact" and
// "underflow", and NumPy would report flags that it did not raise itself.
class DefaultEnvironment {
public:
#if defined(__SSE2__) && defined(__GNUC__)
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
