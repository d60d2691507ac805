// A power of SIMD vectors, to the last digits of double. Included by simd.hpp, which states the conventions.
#pragma once

#include "functions.hpp"

namespace {
namespace simd {

// q^gamma.
//   Lanes   double
//   Range   0 <= q <= 1, finite gamma >= 0. 0 where the result would be subnormal; 0^0 = 1. NaN passes through.
//   Error   1.6 ULP (test_elementary)
//   Source  log_of_parts, keeping the rounding error of each term
// exp multiplies an error of its argument by up to 708, so gamma log q is needed to ten bits more than a double has.
// log q = k ln2 + 2 s + s tail, s = f / (2 + f), tail = 2/3 s^2 + 2/5 s^4 + ... < 0.02: only the terms up to
// 2/3 s^2 have to be exact beyond double. The series itself is accurate enough: twelve terms leave 2^-65.
FASTCE_INLINE vec<double> power_of_fraction(vec<double> q, double gamma) {
    typedef constants<double> c;
    const vec<double> zero(0.0), two(2.0), exponent(gamma);
    const double third = 2.0 / 3.0, rest_of_third = 0x1.5555555555555p-55;
    const mask<double> tiny = less(q, vec<double>(0x1p-900));  // scaled first, because parts_of takes normal numbers
    const parts<double> u = parts_of(select(tiny, q * 0x1p128, q));
    const vec<double> k = u.k + select(tiny, vec<double>(-128.0), zero);
    const vec<double> f = u.scaled - vec<double>(1.0), divisor = f + two;
    const vec<double> s = f / divisor, back = s * divisor;
    const vec<double> missing = subtract_product((f - back) - product_error(s, divisor, back), s, f - (divisor - two));
    const vec<double> s_low = missing / divisor;
    const vec<double> z = s * s, z_low = fma(s + s, s_low, product_error(s, s, z));
    vec<double> series(2.0 / 25);
    for (int n = 23; n >= 5; n -= 2)
        series = fma(series, z, vec<double>(2.0 / n));
    const vec<double> tail = z * third;
    const vec<double> tail_low = fma(series * z, z, fma(z, vec<double>(rest_of_third), z_low * third)) +
                                 product_error(z, vec<double>(third), tail);
    const vec<double> product = s * tail;
    vec<double> low = fma(s_low, tail, fma(s, tail_low, product_error(s, tail, product)));
    low = fma(k, vec<double>(c::ln2_low()), fma(two, s_low, low));
    // Each term is at most as large as those before it, or they are 0, so the rounding error of each sum is known
    // exactly.
    const vec<double> high = k * c::ln2_high(), upper = high + (s + s), both = upper + product;
    low = low + (((s + s) - (upper - high)) + (product - (both - upper)));
    const vec<double> logarithm = both + low;
    low = low - (logarithm - both);
    const vec<double> x = exponent * logarithm;
    const vec<double> x_low = fma(exponent, low, product_error(exponent, logarithm, x));
    const vec<double> power = exp(x, select(less(x, vec<double>(c::exp_clamp())), zero, -x_low));
    return select(equal(q, zero), vec<double>(gamma == 0.0 ? 1.0 : 0.0), power) + (q - q);
}

}  // namespace simd
}  // namespace
