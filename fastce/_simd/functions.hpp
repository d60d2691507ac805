// exp, log1p and log of SIMD vectors. Included by simd.hpp, which states the conventions.
//
// The head of each function gives its lane types and range, its largest error in ULP and how that was measured, and the
// source of the method. `tools.exhaustive` is `python -m tools.exhaustive --only NAME`, over every float of the range;
// its last results are in bench/results/exhaustive.md. `test_elementary` is `pytest tests/kernels/test_elementary.py`,
// which checks samples in both precisions against these errors. `tools/polynomials.py` computes the polynomials and
// tables, and documents what each approximates.
#pragma once

#include "simd.hpp"
#include "tables.hpp"

namespace {
namespace simd {

// constants<T>: what differs between the precisions of the same algorithm.
template <class T> struct constants;
template <> struct constants<float> {
    enum { mantissa = 23, bias = 127 };
    static FASTCE_INLINE float rounder() { return 0x1.8p23f; }  // adding it rounds to an integer
    static FASTCE_INLINE float ln2_high() { return 0x1.62e4p-1f; }  // 15 bits: k * ln2_high is exact
    static FASTCE_INLINE float ln2_low() { return 0x1.7f7d1cp-20f; }
    static FASTCE_INLINE float exp_clamp() { return -160.0f; }
    static FASTCE_INLINE float smallest_normal_exp() { return -87.0f; }  // the smallest is e^-87.34
    // e^40 is 2^58. The range from there to 2^127 is left for sums, and for the factors that their inverses multiply.
    static FASTCE_INLINE float safe_range_lowest() { return smallest_normal_exp(); }
    static FASTCE_INLINE float safe_range_highest() { return 40.0f; }
    enum { raised = 64 };
    static FASTCE_INLINE double inverse_exp_scale() { return 0x1p-64; }
};
template <> struct constants<double> {
    enum { mantissa = 52, bias = 1023 };
    static FASTCE_INLINE double rounder() { return 0x1.8p52; }
    static FASTCE_INLINE double ln2_high() { return 0x1.62e42fefp-1; }  // 33 bits
    static FASTCE_INLINE double ln2_low() { return 0x1.473de6af278edp-34; }
    static FASTCE_INLINE double exp_clamp() { return -1200.0; }
    static FASTCE_INLINE double smallest_normal_exp() { return -708.0; }  // the smallest is e^-708.4
    // The product of a factor and e^100 is computed in double: it is finite for factors up to 1e264.
    static FASTCE_INLINE double safe_range_lowest() { return -100.0; }
    static FASTCE_INLINE double safe_range_highest() { return 100.0; }
    enum { raised = 512 };
    static FASTCE_INLINE double inverse_exp_scale() { return 0x1p-512; }
};

// c0 + c1 x + c2 x^2 + ... by Estrin's scheme: pairs first, so that the longest chain grows with the logarithm of the
// degree. Horner's rule needs fewer operations, but the loops would wait for its chain, at 4 cycles per step.
template <class T> FASTCE_INLINE vec<T> pair(T c0, T c1, vec<T> x) {
    return fma(vec<T>(c1), x, vec<T>(c0));
}

// (e^r - 1 - r) / r^2 for |r| <= ln2 / 2.
FASTCE_INLINE vec<float> exp_polynomial(vec<float> r, vec<float> r2) {
    const vec<float> low = pair(0x1.0p-1f, 0x1.5554dcp-3f, r);
    const vec<float> high = pair(0x1.555518p-5f, 0x1.120be2p-7f, r);
    return fma(fma(vec<float>(0x1.6d117cp-10f), r2, high), r2, low);
}
FASTCE_INLINE vec<double> exp_polynomial(vec<double> r, vec<double> r2) {
    const vec<double> r4 = r2 * r2;
    const vec<double> p01 = pair(0x1.0000000000001p-1, 0x1.5555555555556p-3, r);
    const vec<double> p23 = pair(0x1.5555555553d37p-5, 0x1.11111111109a6p-7, r);
    const vec<double> p45 = pair(0x1.6c16c1789d1d7p-10, 0x1.a01a01a7cebcdp-13, r);
    const vec<double> p67 = pair(0x1.a019b8ca26fcfp-16, 0x1.71de0d85293b8p-19, r);
    const vec<double> p89 = pair(0x1.2891d4ffbb0f9p-22, 0x1.af390ba7e6f47p-26, r);
    const vec<double> p03 = fma(p23, r2, p01), p47 = fma(p67, r2, p45);
    return fma(fma(p89, r4, p47), r4, p03);
}

// The rounding error of a * b, given the rounded product.
template <class T> FASTCE_INLINE vec<T> product_error(vec<T> a, vec<T> b, vec<T> product) {
#if FASTCE_FMA
    return fmsub(a, b, product);
#else
    // Products of half mantissas are exact (Dekker 1971). A mask extracts the upper half.
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    const integer upper = -(integer(1) << (constants<T>::mantissa / 2 + 1));  // at most half of its bits
    const vec<T> a_high(bit_cast<typename vec<T>::native>(bits(bit_cast<bits>(a.v) & upper)));
    const vec<T> b_high(bit_cast<typename vec<T>::native>(bits(bit_cast<bits>(b.v) & upper)));
    const vec<T> a_low = a - a_high, b_low = b - b_high;
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
}

// 2^power e^(x - excess), |excess| tiny.
//   Lanes   float, double
//   Range   x <= 0; x <= 88 (float) or 709 (double) without a power. The result is 0 if it would be
//           subnormal: many processors are far slower with subnormal numbers, and a row masked with -1e9 would be
//           slow at every element. So e^-inf = 0. NaN passes through. With `normal`, no result may be subnormal.
//   Error   that of `exp` below
//   Source  W. J. Cody and W. Waite, "Software Manual for the Elementary Functions", Prentice-Hall 1980
// x = k ln2 + r, |r| <= ln2 / 2, with ln2 in two parts, the first of which times k is exact. Adding biased_rounder
// leaves k + bias + power in the low bits of `shifted`, and one shift moves it into the exponent of `scale`. If it is
// negative, the maximum with 0 turns it into 0.0. Then e_less_1 = e^r - 1 = r + r^2 P(r).
template <class T>
FASTCE_INLINE vec<T> exp_times_power(vec<T> x, vec<T> excess, int power, bool normal = false) {
    typedef constants<T> c;
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    const vec<T> clamped = normal ? x : max(vec<T>(c::exp_clamp()), x);
    const vec<T> biased_rounder(c::rounder() + T(int(c::bias) + power));
    const vec<T> shifted = fma(clamped, vec<T>(T(1.4426950408889634)), biased_rounder);
    const vec<T> k = shifted - biased_rounder;
    vec<T> r = fma(k, vec<T>(-c::ln2_high()), clamped);
    r = fma(k, vec<T>(-c::ln2_low()), r) - excess;  // subtracted, because x - 0 is free and x + 0 is not
    const vec<T> r2 = r * r;
    const vec<T> e_less_1 = fma(r2, exp_polynomial(r, r2), r);
    const bits exponent = bit_cast<bits>(shifted.v) << integer(c::mantissa);
    const vec<T> scale(bit_cast<typename vec<T>::native>(
        normal ? exponent : bits(exponent > 0 ? exponent : exponent - exponent)));
    return fma(e_less_1, scale, scale);
}

#if defined(__FMA__) && FASTCE_VECTOR_BYTES >= 32
// In float, if one instruction looks up a number for every lane: x = (n / 16) ln2 + r. So |r| is a sixteenth of the
// above, and the polynomial is three terms shorter. AVX-512 has such an instruction for 16 numbers, AVX2 for 4, the
// same in both halves of the vector (its instruction for 8 is slow on Zen 3): there x = (n / 4) ln2 + r.
enum { table_bits = FASTCE_VECTOR_BYTES == 64 ? 4 : 2, table_size = 1 << table_bits };
struct lookup_table {
    alignas(FASTCE_VECTOR_BYTES) float entry[vec<float>::lanes];
    alignas(FASTCE_VECTOR_BYTES) std::uint32_t bits[vec<float>::lanes];
};
// Every lane's entry; and its bits, minus its part of a power of two, so that adding all of n to the exponent is right.
// Evaluated at compile time: left to itself, GCC 12 would build such a vector number by number on each use.
template <int size> constexpr lookup_table make_lookup_table(const float (&entries)[size]) {
    lookup_table table = {};
    for (int lane = 0; lane < vec<float>::lanes; ++lane) {
        const int i = lane % table_size;
        table.entry[lane] = entries[i * (size / table_size)];
        table.bits[lane] = __builtin_bit_cast(std::uint32_t, table.entry[lane]) - (std::uint32_t(i) << (23 - table_bits));
    }
    return table;
}
constexpr lookup_table exp2_lanes = make_lookup_table(exp2_table), exp2_low_lanes = make_lookup_table(exp2_table_low),
                       multiples_lanes = make_lookup_table(quarter_multiples);
FASTCE_INLINE native_of<float>::unsigned_bits bits_of_lanes(const lookup_table &table) {
    native_of<float>::unsigned_bits bits;
    std::memcpy(&bits, table.bits, sizeof bits);
    return bits;
}
// The entry whose index is in the last bits of each lane.
FASTCE_INLINE vec<float> look_up(vec<float>::native table, native_of<float>::unsigned_bits n) {
#if FASTCE_VECTOR_BYTES == 32
    return vec<float>(_mm256_permutevar_ps(table, bit_cast<__m256i>(n)));
#elif defined(__AVX512F__)
    return vec<float>(_mm512_permutexvar_ps(bit_cast<__m512i>(n), table));
#else
    vec<float>::native x = {};
    for (int lane = 0; lane < vec<float>::lanes; ++lane)
        x[lane] = table[n[lane] % table_size];
    return vec<float>(x);
#endif
}
// (e^r - 1 - r) / r^2 for |r| <= ln2 / 32.
FASTCE_INLINE vec<float> sixteenth_exp_polynomial(vec<float> r) {
    return pair(0x1.000148p-1f, 0x1.55565cp-3f, r);
}
// The same for |r| <= ln2 / 8.
FASTCE_INLINE vec<float> quarter_exp_polynomial(vec<float> r) {
    const vec<float> half(0x1.0p-1f);
    return fma(pair(0x1.556dfcp-3f, 0x1.5565c4p-5f, r), r, half);
}

// e^(x - excess), times a power of two and a factor that the table contains.
//   Lanes   float
//   Range   where this product is a normal number
//   Error   that of `exp` and `exp_in_safe_range` below
//   Source  P. T. P. Tang, "Table-driven implementation of the exponential function in IEEE floating-point
//           arithmetic", ACM Transactions on Mathematical Software 15 (1989)
// n = k 2^table_bits is the integer in the low bits of `shifted`. The entry whose index is in its last bits, with the
// rest of n added to the exponent, is 2^k up to the rounding error of the entry. `losses` are these errors, relative to
// the entries. Then e_less_1 = e^r - 1 + losses, and the result is scale (1 + e_less_1).
FASTCE_INLINE vec<float> exp_by_table(vec<float> x, vec<float> excess, native_of<float>::unsigned_bits table,
                                      bool with_losses) {
    typedef native_of<float>::unsigned_bits bits;  // bits that are dropped below may overflow
    // Its last bit is worth 1 / 16, or 1 / 4.
    const vec<float> rounder(table_bits == 4 ? 0x1.8p19f : 0x1.8p21f);
    const vec<float> shifted = fma(x, vec<float>(1.4426950408889634f), rounder);
    const vec<float> k = shifted - rounder;
    // ln2 in two parts of 24 bits. The first product must not be rounded separately; it cancels all but the last bits
    // of x. The second is added at the end.
    const vec<float> r = fma(k, vec<float>(-0x1.62e430p-1f), x) - excess;
    const bits n = bit_cast<bits>(shifted.v);
    const bits scale_bits =
        bit_cast<bits>(look_up(bit_cast<vec<float>::native>(table), n).v) + (n << (23 - table_bits));
    const vec<float> scale(bit_cast<vec<float>::native>(scale_bits)), ln2_low(0x1.05c610p-29f);
    const vec<float>::native losses = load(exp2_low_lanes.entry).v;
#if FASTCE_VECTOR_BYTES == 64
    // With 16 entries r is at most 0.022, so the polynomial need not include what is added here.
    const vec<float> p = fma(sixteenth_exp_polynomial(r), r, vec<float>(1.0f));
    const vec<float> e_less_1 = with_losses ? fma(p, r, fma(k, ln2_low, look_up(losses, n))) : p * r;
#else
    // The losses are left out if nothing multiplies the error: on Zen 3, a look-up occupies a multiplier.
    const vec<float> low = fma(k, ln2_low, look_up(losses, n)), p = quarter_exp_polynomial(r);
    const vec<float> e_less_1 =
        with_losses ? fma(fma(p, r, low + 1.0f), r, low) : fma(p, r * r, fma(k, ln2_low, r));
#endif
    return fma(e_less_1, scale, scale);
}

template <>
FASTCE_INLINE vec<float> exp_times_power(vec<float> x, vec<float> excess, int power, bool normal) {
    // ln(2^-126 / 2^power), rounded up, for the two powers in use. From here on, all results are normal.
    const vec<float> smallest(power ? -0x1.07655ap7f : -0x1.5d589ep6f);
    const native_of<float>::unsigned_bits powers = bits_of_lanes(exp2_lanes);
    // Raised exponentials occur in rows whose focal loss multiplies an error by gamma.
    const vec<float> y = exp_by_table(x, excess, powers + (std::uint32_t(power) << 23),
                                      power != 0 || FASTCE_VECTOR_BYTES == 64);
    return normal ? y : zero_where(less(x, smallest), y);
}
#endif

// e^x.
//   Lanes   float, double
//   Range   x <= 88 (float), 709 (double); -inf and NaN too. 0 where e^x would be subnormal.
//   Error   float 0.68 ULP with vectors of 64 bytes, 1.20 with AVX2, 1.09 without FMA (tools.exhaustive);
//           double 1.1 ULP (test_elementary)
//   Source  exp_times_power
template <class T> FASTCE_INLINE vec<T> exp(vec<T> x) {
    return exp_times_power(x, vec<T>(T(0)), 0);
}
// The same, if no x is below `smallest_normal_exp`.
template <class T> FASTCE_INLINE vec<T> normal_exp(vec<T> x) {
    return exp_times_power(x, vec<T>(T(0)), 0, true);
}
// e^x - 1, and in `rest` e^x - 1 - x.
//   Lanes   float, double
//   Range   from smallest_normal_exp to 88 (float) or 709 (double), NaN too
//   Error   of e^x - 1: float 4.5 ULP, double 2.5 ULP; of the rest for |x| <= 1: float 4.5 ULP,
//           double 6.5 ULP (test_elementary)
//   Source  that of `exp`
// With e^r - 1 = r + r^2 P(r) and x = k ln2 + r, the rest is 2^k r^2 P(r) + (2^k - 1) r + (2^k - 1 - k ln2): if k is 0,
// the first term alone; otherwise less cancels than in (e^x - 1) - x.
// It is computed in two parts, so that a loop can do the first one for a vector while it does the second for the vector
// before it.
template <class T> struct reduced {
    vec<T> shifted;  // k plus the bias of exponents, in its low bits
    vec<T> r;
};
template <class T> FASTCE_INLINE reduced<T> reduce_exponent(vec<T> x) {
    typedef constants<T> c;
    const vec<T> biased_rounder(c::rounder() + T(int(c::bias)));
    const vec<T> minus_ln2(T(-0.69314718055994531));
    const vec<T> shifted = fma(x, vec<T>(T(1.4426950408889634)), biased_rounder);
    const vec<T> k = shifted - biased_rounder;
#if FASTCE_FMA  // what ln2 lacks as a float counts less than the rounding of x
    vec<T> r = fma(k, minus_ln2, x);
    if (sizeof(T) == 8)
        r = fma(k, vec<T>(T(-0x1.abc9e3b39803fp-56)), r);
#else
    const vec<T> r = fma(k, vec<T>(-c::ln2_low()), fma(k, vec<T>(-c::ln2_high()), x));
#endif
    return {shifted, r};
}
template <class T> FASTCE_INLINE vec<T> expm1_of_reduced(reduced<T> x, vec<T> *rest) {
    typedef constants<T> c;
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    const vec<T> minus_ln2(T(-0.69314718055994531)), r = x.r;
    const vec<T> k = x.shifted - vec<T>(c::rounder() + T(int(c::bias)));
    const vec<T> r2 = r * r, near_rest = r2 * exp_polynomial(r, r2);
    const vec<T> scale(bit_cast<typename vec<T>::native>(bits(bit_cast<bits>(x.shifted.v) << integer(c::mantissa))));
    const vec<T> scale_less_1 = scale - vec<T>(T(1));
    *rest = fma(near_rest, scale, fma(scale_less_1, r, fma(k, minus_ln2, scale_less_1)));
    return fma(r + near_rest, scale, scale_less_1);
}
template <class T> FASTCE_INLINE vec<T> expm1_with_rest(vec<T> x, vec<T> *rest) {
    return expm1_of_reduced(reduce_exponent(x), rest);
}
template <class T> FASTCE_INLINE vec<T> expm1(vec<T> x) {
    vec<T> rest;
    return expm1_with_rest(x, &rest);
}
// safe_range_unit e^x: only the proportions of a row's exponentials matter.
//   Lanes   float, double
//   Range   from safe_range_lowest to safe_range_highest, NaN too
//   Error   float 0.67 ULP with vectors of 64 bytes, 0.93 with AVX2, 1.09 without FMA (tools.exhaustive);
//           double 1.1 ULP (test_elementary)
//   Source  exp_by_table; S. Gal's choice of table entries (see tables.hpp): multiples of a unit that are nearly
//           floats, so that the entries of a table of 4 have next to no rounding error
template <class T> FASTCE_INLINE double safe_range_unit(T) { return 1.0; }
template <class T> FASTCE_INLINE vec<T> exp_in_safe_range(vec<T> x) { return normal_exp(x); }
#if defined(__FMA__) && FASTCE_VECTOR_BYTES == 32
template <> FASTCE_INLINE double safe_range_unit(float) { return double(quarter_multiples[0]); }
template <> FASTCE_INLINE vec<float> exp_in_safe_range(vec<float> x) {
    return exp_by_table(x, vec<float>(0.0f), bits_of_lanes(multiples_lanes), false);
}
#endif
// The same with fewer operations.
//   Error   float 4.5 ULP with vectors of 64 bytes, half of that for |x| <= 40; otherwise that of
//           `exp_in_safe_range` (test_elementary)
template <class T> FASTCE_INLINE vec<T> rough_exp_in_safe_range(vec<T> x) { return exp_in_safe_range(x); }
#if defined(__FMA__) && FASTCE_VECTOR_BYTES == 64
template <> FASTCE_INLINE vec<float> rough_exp_in_safe_range(vec<float> x) {
    return exp_by_table(x, vec<float>(0.0f), bits_of_lanes(exp2_lanes), false);
}
#endif
template <class T> FASTCE_INLINE T smallest_normal_exp(T) { return constants<T>::smallest_normal_exp(); }
template <class T> FASTCE_INLINE T safe_range_lowest(T) { return constants<T>::safe_range_lowest(); }
template <class T> FASTCE_INLINE T safe_range_highest(T) { return constants<T>::safe_range_highest(); }
template <class T> FASTCE_INLINE vec<T> exp(vec<T> x, vec<T> excess) {
    return exp_times_power(x, excess, 0);
}
// Raised exponentials, 2^64 e^x or 2^512 e^x, are not subnormal down to e^-131 or e^-1062. Their sums keep all digits
// as long as the sum itself is a normal number, at no cost.
template <class T> FASTCE_INLINE vec<T> raised_exp(vec<T> x) {
    return exp_times_power(x, vec<T>(T(0)), constants<T>::raised);
}
template <class T> FASTCE_INLINE double inverse_exp_scale(T) { return constants<T>::inverse_exp_scale(); }
// The smallest factor that is a normal number. Factors are finite below four times its inverse.
template <class T> FASTCE_INLINE double smallest_factor(T) { return double(std::numeric_limits<T>::min()); }

// log(1 + x).
//   Lanes   float, double
//   Range   float 0 <= x <= 1, which is all that softplus and its tail need; double 0 <= x < 2^53. NaN passes through.
//   Error   float 1.25 ULP with vectors of 64 bytes, 1.55 with AVX2, 1.43 without FMA (tools.exhaustive);
//           double 1.6 ULP (test_elementary)
//   Source  given with each form below
template <class T> vec<T> log1p(vec<T> x);
#if defined(__FMA__) && FASTCE_VECTOR_BYTES == 64
// If an instruction looks up one of 32 numbers: log(1 + x) = log(1 + r) - log c with r = (1 + x) c - 1, c near 1 / (1 +
// n / 31), and n the integer nearest to 31 x, so |r| is at most 1 / 62. Source: S. Gal (see tables.hpp).
FASTCE_INLINE vec<float> look_up(const float (&table)[32], native_of<float>::bits index) {
#if defined(__AVX512F__)
    return vec<float>(_mm512_permutex2var_ps(load(table).v, bit_cast<__m512i>(index), load(table + 16).v));
#else
    vec<float>::native x = {};
    for (int lane = 0; lane < vec<float>::lanes; ++lane)
        x[lane] = table[index[lane] & 31];
    return vec<float>(x);
#endif
}
// (log(1 + r) - r) / r^2 for |r| <= 1 / 62.
FASTCE_INLINE vec<float> log1p_polynomial(vec<float> r) {
    const vec<float> half(-0x1.000000p-1f);
    return fma(pair(0x1.555f96p-2f, -0x1.00088ap-2f, r), r, half);
}
template <> FASTCE_INLINE vec<float> log1p(vec<float> x) {
    const native_of<float>::bits n =
        bit_cast<native_of<float>::bits>(fma(x, vec<float>(31.0f), vec<float>(0x1.8p23f)).v);
    const vec<float> c = look_up(inverses, n), one(1.0f), r = fma(x, c, c - one);
    return fma(fma(log1p_polynomial(r), r, one), r, look_up(logarithms, n));
}
#elif defined(__FMA__) && FASTCE_VECTOR_BYTES == 32
// A polynomial alone, x + x^2 P(x): the losses divide at the same time, and avoiding a division is worth more than five
// multiplications.
// P(x) = (log(1 + x) - x) / x^2 for x from 0 to 1.
FASTCE_INLINE vec<float> whole_log1p_polynomial(vec<float> x) {
    const vec<float> x2 = x * x;
    const vec<float> p01 = pair(-0x1.fffffep-2f, 0x1.55540cp-2f, x);
    const vec<float> p23 = pair(-0x1.ffb95cp-3f, 0x1.969cb2p-3f, x);
    const vec<float> p45 = pair(-0x1.448ee2p-3f, 0x1.d992bcp-4f, x);
    const vec<float> p67 = pair(-0x1.11708cp-4f, 0x1.9d455ap-6f, x);
    const vec<float> p47 = fma(fma(vec<float>(-0x1.24b298p-8f), x2, p67), x2, p45);
    return fma(p47, x2 * x2, fma(p23, x2, p01));
}
template <> FASTCE_INLINE vec<float> log1p(vec<float> x) {
    return fma(whole_log1p_polynomial(x), x * x, x);
}
#else
// log(1 + x) = 2 atanh(s) with s = x / (2 + x), written as x - s (x - tail) so that x itself enters unrounded. Source:
// as for log_of_parts.
FASTCE_INLINE vec<float> wide_atanh_polynomial(vec<float> z) {
    const vec<float> p01 = pair(0x1.55554cp-1f, 0x1.99ad8cp-2f, z);
    const vec<float> p23 = pair(0x1.2120c4p-2f, 0x1.13115cp-2f, z);
    return fma(p23, z * z, p01);
}
template <> FASTCE_INLINE vec<float> log1p(vec<float> x) {
    const vec<float> s = x / (x + 2.0f), z = s * s;
    return subtract_product(x, s, subtract_product(x, z, wide_atanh_polynomial(z)));
}
#endif

// 2 atanh(s) = 2 s + s^3 * atanh_polynomial(s^2) for |s| <= 0.1717 = (sqrt2 - 1) / (sqrt2 + 1).
FASTCE_INLINE vec<float> atanh_polynomial(vec<float> z) {
    const vec<float> p01 = pair(0x1.55555cp-1f, 0x1.997c12p-2f, z);
    return fma(vec<float>(0x1.2eeb80p-2f), z * z, p01);
}
FASTCE_INLINE vec<double> atanh_polynomial(vec<double> z) {
    const vec<double> z2 = z * z;
    const vec<double> p01 = pair(0x1.5555555555558p-1, 0x1.9999999995204p-2, z);
    const vec<double> p23 = pair(0x1.2492492e09d4dp-2, 0x1.c71c62c639fdep-3, z);
    const vec<double> p45 = pair(0x1.7462bd8f7796ep-3, 0x1.39fd392179a95p-3, z);
    const vec<double> p46 = fma(vec<double>(0x1.2b6688a387e03p-3), z2, p45);
    return fma(fma(p46, z2, p23), z2, p01);
}

// log(2^k (1 + f)) for 1 + f in [sqrt(1/2), sqrt(2)): log(1 + f) = 2 atanh(s) with s = f / (2 + f), written as f - s (f
// - tail) with tail = z P(z) and z = s^2, so that f itself enters unrounded.
// Source: K. C. Ng in fdlibm (Sun Microsystems, 1993), e_log.c.
template <class T> FASTCE_INLINE vec<T> log_of_parts(vec<T> f, vec<T> k) {
    typedef constants<T> c;
    const vec<T> s = f / (f + vec<T>(T(2)));
    const vec<T> z = s * s;
    const vec<T> rest = subtract_product(k * vec<T>(c::ln2_low()), s, subtract_product(f, z, atanh_polynomial(z)));
    return fma(k, vec<T>(c::ln2_high()), f + rest);
}

// u = 2^k scaled, scaled in [sqrt(1/2), sqrt(2)), for normal u; and 2^-k.
template <class T> struct parts {
    vec<T> k, scaled, inverse_scale;
};
template <class T> FASTCE_INLINE parts<T> parts_of(vec<T> u) {
    typedef constants<T> c;
    typedef typename vec<T>::native native;
    typedef typename native_of<T>::unsigned_bits bits;  // AVX2 has no arithmetic shift of 64-bit integers
    typedef typename bits_of<T>::unsigned_type integer;
    const int mantissa = c::mantissa;
    const integer bias = c::bias, sqrt_half = bit_cast<integer>(T(0.70710678118654752));
    const bits u_bits = bit_cast<bits>(u.v);
    const bits biased_k = (u_bits - sqrt_half + (bias << mantissa)) >> mantissa;
    // An integer in the low bits of 2^mantissa is that integer plus 2^mantissa.
    const integer two_power = (bias + integer(mantissa)) << mantissa;
    parts<T> p;
    p.k = vec<T>(bit_cast<native>(bits(biased_k | two_power))) - vec<T>(bit_cast<T>(two_power) + T(bias));
    p.scaled = vec<T>(bit_cast<native>(bits(u_bits - ((biased_k - bias) << mantissa))));
    p.inverse_scale = vec<T>(bit_cast<native>(bits((2 * bias - biased_k) << mantissa)));
    return p;
}

// log(u + low), where low is the rounding error of u.
//   Lanes   float, double
//   Range   normal u up to 2^127 (float) or 2^1023 (double). NaN passes through; 0 and subnormal numbers give about
//           log of the smallest normal number.
//   Error   float 0.96 ULP (tools.exhaustive); double 1.0 ULP (test_elementary)
//   Source  log_of_parts
template <class T> FASTCE_INLINE vec<T> log(vec<T> u, vec<T> low) {
    const parts<T> p = parts_of(u);
    return log_of_parts(fma(low, p.inverse_scale, p.scaled - vec<T>(T(1))), p.k) + (u - u);
}
template <class T> FASTCE_INLINE vec<T> log(vec<T> u) { return log(u, vec<T>(T(0))); }

// In double: by u = 1 + x and its rounding error.
template <> FASTCE_INLINE vec<double> log1p(vec<double> x) {
    const vec<double> one(1.0), u = x + one, low = x - (u - one);
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    // Splits u as log does, with 6 instructions instead of 13.
    const vec<double> k(_mm512_getexp_pd((u * vec<double>(1.4142135623730951)).v));
    const vec<double> inverse_scale(_mm512_scalef_pd(one.v, (-k).v));
    const vec<double> f = fma(low, inverse_scale, fmsub(u, inverse_scale, one));
    return log_of_parts(f, k);
#else
    return log(u, low);
#endif
}

FASTCE_INLINE vec<double> sqrt(vec<double> x) {
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return vec<double>(_mm512_sqrt_pd(x.v));
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX2__)
    return vec<double>(_mm256_sqrt_pd(x.v));
#else
    double lane[vec<double>::lanes];
    store(lane, x);
    for (double &number : lane)
        number = std::sqrt(number);
    return load(static_cast<const double *>(lane));
#endif
}

// log(1 + rest / pivot) = k ln2 + 2 atanh(s), s = numerator / denominator: quotient_parts returns k and both, so that
// the caller may combine this division with others; log_of_quotient computes the logarithm from s and k, for a float32
// result.
//   Lanes   double
//   Range   pivot normal, rest >= 0, their sum `total` below 2^1022. NaN passes through.
//   Error   1e-10 of the result (test_elementary)
//   Source  as log_of_parts
// The bits of a number are its logarithm in units of 2^-52, to within 0.09. So their difference gives the k for which
// 2^k pivot is two thirds to three halves of the total.
FASTCE_INLINE vec<double> quotient_parts(vec<double> rest, vec<double> pivot, vec<double> total, vec<double> *numerator,
                                         vec<double> *denominator) {
    typedef constants<double> c;
    typedef native_of<double>::unsigned_bits bits;
    const int mantissa = c::mantissa;
    const std::uint64_t two_power = std::uint64_t(c::bias + mantissa) << mantissa, half = std::uint64_t(1) << (mantissa - 1);
    const bits pivot_bits = bit_cast<bits>(pivot.v);
    const bits k = (bit_cast<bits>(total.v) - pivot_bits + half) >> mantissa;
    const vec<double> scaled(bit_cast<vec<double>::native>(bits(pivot_bits + (k << mantissa))));
    *numerator = rest - (scaled - pivot);
    *denominator = total + scaled;
    return vec<double>(bit_cast<vec<double>::native>(bits(k | two_power))) - vec<double>(bit_cast<double>(two_power));
}
// 2 atanh(s) = 2 s + s^3 * quotient_polynomial(s^2) for |s| <= 1/5.
FASTCE_INLINE vec<double> quotient_polynomial(vec<double> z) {
    const vec<double> p01 = pair(0x1.555555339ab46p-1, 0x1.999a6bc315297p-2, z);
    const vec<double> p23 = pair(0x1.242c759c1c84ap-2, 0x1.e66940555067ep-3, z);
    return fma(p23, z * z, p01);
}
FASTCE_INLINE vec<double> log_of_quotient(vec<double> s, vec<double> k) {
    const vec<double> z = s * s;
    return fma(k, vec<double>(0x1.62e42fefa39efp-1), fma(s * z, quotient_polynomial(z), s + s));
}

}  // namespace simd
}  // namespace
