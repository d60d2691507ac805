// SIMD vectors of float or double, one width per compilation, and the elementary functions on them.
//
// The kernels are written once over vec<T> and compiled once per instruction set; the width follows
// from the compiler's flags. Everything stands in an anonymous namespace: an inline function that was
// compiled for AVX2 must never be the copy that the linker keeps for the baseline.
//
// Conventions: NaN propagates through every function. No function sets errno. Loads and stores take
// any address (they go through memcpy, which compiles to one unaligned move). A "range" is where the
// stated error holds; polynomials come from tools/polynomials.py, errors from tests/test_elementary.py.
#pragma once

#include <cfenv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__SSE2__) && defined(__GNUC__)
#include <immintrin.h>
#endif

// Bytes of a vector. 0: no vector extension, one element at a time (MSVC, or to test that path).
// Setting it to 64 on AVX2 runs the logic of 16 lanes on a machine without AVX-512.
#if !defined(FASTCE_VECTOR_BYTES)
#if !defined(__GNUC__)
#define FASTCE_VECTOR_BYTES 0
#elif defined(__AVX512F__)
#define FASTCE_VECTOR_BYTES 64
#elif defined(__AVX__)
#define FASTCE_VECTOR_BYTES 32
#else
#define FASTCE_VECTOR_BYTES 16
#endif
#endif

#if defined(__GNUC__)
#define FASTCE_INLINE inline __attribute__((always_inline))
#else
#define FASTCE_INLINE __forceinline
#endif

namespace {
namespace simd {

template <class T> struct bits_of;
template <> struct bits_of<float> {
    typedef std::int32_t type;
    typedef std::uint32_t unsigned_type;
};
template <> struct bits_of<double> {
    typedef std::int64_t type;
    typedef std::uint64_t unsigned_type;
};

template <class To, class From> FASTCE_INLINE To bit_cast(const From &from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

#if FASTCE_VECTOR_BYTES
template <class T> struct native_of;
template <> struct native_of<float> {
    typedef float type __attribute__((vector_size(FASTCE_VECTOR_BYTES)));
    typedef std::int32_t bits __attribute__((vector_size(FASTCE_VECTOR_BYTES)));
    typedef std::uint32_t unsigned_bits __attribute__((vector_size(FASTCE_VECTOR_BYTES)));
    enum { lanes = FASTCE_VECTOR_BYTES / 4 };
};
template <> struct native_of<double> {
    typedef double type __attribute__((vector_size(FASTCE_VECTOR_BYTES)));
    typedef std::int64_t bits __attribute__((vector_size(FASTCE_VECTOR_BYTES)));
    typedef std::uint64_t unsigned_bits __attribute__((vector_size(FASTCE_VECTOR_BYTES)));
    enum { lanes = FASTCE_VECTOR_BYTES / 8 };
};
#else
template <class T> struct native_of {
    typedef T type;
    typedef typename bits_of<T>::type bits;
    typedef typename bits_of<T>::unsigned_type unsigned_bits;
    enum { lanes = 1 };
};
#endif

// ---------------------------------------------------------------------------------- the vector

template <class T> struct vec {
    typedef typename native_of<T>::type native;
    enum { lanes = native_of<T>::lanes };
    native v;

    FASTCE_INLINE vec() {}
#if FASTCE_VECTOR_BYTES
    FASTCE_INLINE vec(native n) : v(n) {}
    FASTCE_INLINE vec(T scalar) : v(scalar - native{}) {}  // x - 0 is x, also for -0.0: a broadcast
    FASTCE_INLINE T operator[](std::ptrdiff_t lane) const { return v[lane]; }
#else
    FASTCE_INLINE vec(T scalar) : v(scalar) {}
    FASTCE_INLINE T operator[](std::ptrdiff_t) const { return v; }
#endif
    FASTCE_INLINE vec operator-() const { return vec(native(-v)); }
    FASTCE_INLINE vec operator+(vec b) const { return vec(native(v + b.v)); }
    FASTCE_INLINE vec operator-(vec b) const { return vec(native(v - b.v)); }
    FASTCE_INLINE vec operator*(vec b) const { return vec(native(v * b.v)); }
    FASTCE_INLINE vec operator/(vec b) const { return vec(native(v / b.v)); }
    FASTCE_INLINE vec operator+(T b) const { return *this + vec(b); }
    FASTCE_INLINE vec operator-(T b) const { return *this - vec(b); }
    FASTCE_INLINE vec operator*(T b) const { return *this * vec(b); }
    FASTCE_INLINE vec operator/(T b) const { return *this / vec(b); }

};

#if FASTCE_VECTOR_BYTES
template <class T> struct mask {
    typedef typename native_of<T>::bits native;
    native v;
    FASTCE_INLINE mask() {}
    FASTCE_INLINE mask(native n) : v(n) {}
    FASTCE_INLINE mask operator&(mask b) const { return mask(v & b.v); }
    FASTCE_INLINE mask operator|(mask b) const { return mask(v | b.v); }
};
#else
template <class T> struct mask {
    bool v;
    FASTCE_INLINE mask() {}
    FASTCE_INLINE mask(bool n) : v(n) {}
    FASTCE_INLINE mask operator&(mask b) const { return mask(v && b.v); }
    FASTCE_INLINE mask operator|(mask b) const { return mask(v || b.v); }
};
#endif

template <class T> FASTCE_INLINE int lanes(T) { return vec<T>::lanes; }
template <class T> FASTCE_INLINE vec<T> splat(T scalar) { return vec<T>(scalar); }

template <class T> FASTCE_INLINE mask<T> equal(vec<T> a, vec<T> b) { return mask<T>(a.v == b.v); }
template <class T> FASTCE_INLINE mask<T> less(vec<T> a, vec<T> b) { return mask<T>(a.v < b.v); }
template <class T> FASTCE_INLINE mask<T> at_most(vec<T> a, vec<T> b) { return mask<T>(a.v <= b.v); }
template <class T> FASTCE_INLINE vec<T> select(mask<T> m, vec<T> yes, vec<T> no) {
    return vec<T>(typename vec<T>::native(m.v ? yes.v : no.v));
}
// yes where the sign bit of x is set (-0.0 included), else no: one blend, without a comparison.
template <class T> FASTCE_INLINE vec<T> select_negative(vec<T> x, vec<T> yes, vec<T> no) {
    typedef typename native_of<T>::bits bits;
    return vec<T>(typename vec<T>::native(bit_cast<bits>(x.v) < 0 ? yes.v : no.v));
}
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
template <> FASTCE_INLINE vec<float> select_negative(vec<float> x, vec<float> yes, vec<float> no) {
    return _mm256_blendv_ps(no.v, yes.v, x.v);
}
template <> FASTCE_INLINE vec<double> select_negative(vec<double> x, vec<double> yes, vec<double> no) {
    return _mm256_blendv_pd(no.v, yes.v, x.v);
}
#endif
// x with its sign changed where the sign bit of `by` is set.
template <class T> FASTCE_INLINE vec<T> flip_sign(vec<T> x, vec<T> by) {
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    return vec<T>(bit_cast<typename vec<T>::native>(bits(
        bit_cast<bits>(x.v) ^ (bit_cast<bits>(by.v) & std::numeric_limits<integer>::min()))));
}
// x where the mask holds, else +0: what makes 0 * inf harmless. And the other way round.
template <class T> FASTCE_INLINE vec<T> keep(mask<T> m, vec<T> x) { return select(m, x, vec<T>(T(0))); }
#if FASTCE_VECTOR_BYTES
template <class T> FASTCE_INLINE vec<T> drop(mask<T> m, vec<T> x) {
    typedef typename native_of<T>::bits bits;  // one and-not, where GCC blends with zero
    return vec<T>(bit_cast<typename vec<T>::native>(bits(~m.v & bit_cast<bits>(x.v))));
}
#else
template <class T> FASTCE_INLINE vec<T> drop(mask<T> m, vec<T> x) { return m.v ? vec<T>(T(0)) : x; }
#endif

// The larger of the two; b where either is NaN (so max(limit, x) hands on a NaN x). That is maxps, but
// GCC makes a compare and a blend of it unless told that there are neither NaNs nor signed zeros.
template <class T> FASTCE_INLINE vec<T> max(vec<T> a, vec<T> b) {
    return vec<T>(typename vec<T>::native(a.v > b.v ? a.v : b.v));
}
#if FASTCE_VECTOR_BYTES == 16 && defined(__SSE2__)
template <> FASTCE_INLINE vec<float> max(vec<float> a, vec<float> b) { return _mm_max_ps(a.v, b.v); }
template <> FASTCE_INLINE vec<double> max(vec<double> a, vec<double> b) { return _mm_max_pd(a.v, b.v); }
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
template <> FASTCE_INLINE vec<float> max(vec<float> a, vec<float> b) { return _mm256_max_ps(a.v, b.v); }
template <> FASTCE_INLINE vec<double> max(vec<double> a, vec<double> b) { return _mm256_max_pd(a.v, b.v); }
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
template <> FASTCE_INLINE vec<float> max(vec<float> a, vec<float> b) { return _mm512_max_ps(a.v, b.v); }
template <> FASTCE_INLINE vec<double> max(vec<double> a, vec<double> b) { return _mm512_max_pd(a.v, b.v); }
#endif
template <class T> FASTCE_INLINE vec<T> abs(vec<T> x) {
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    return vec<T>(bit_cast<typename vec<T>::native>(
        bits(bit_cast<bits>(x.v) & std::numeric_limits<integer>::max())));
}
// -|x|, in one operation: the sign bit is set.
template <class T> FASTCE_INLINE vec<T> negative_abs(vec<T> x) {
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    return vec<T>(bit_cast<typename vec<T>::native>(
        bits(bit_cast<bits>(x.v) | std::numeric_limits<integer>::min())));
}
// a * b + c. Fused where the instruction set has it: the compiler contracts the expression (GCC by
// default, Clang within one expression); no result below depends on whether it does.
template <class T> FASTCE_INLINE vec<T> fma(vec<T> a, vec<T> b, vec<T> c) {
    return vec<T>(typename vec<T>::native(a.v * b.v + c.v));
}
template <class T> FASTCE_INLINE bool any(mask<T> m) {
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    return !_mm256_testz_si256(bit_cast<__m256i>(m.v), bit_cast<__m256i>(m.v));
#elif FASTCE_VECTOR_BYTES
    typename bits_of<T>::type found = 0;
    for (int lane = 0; lane < vec<T>::lanes; ++lane)
        found |= m.v[lane];
    return found != 0;
#else
    return m.v;
#endif
}

// ------------------------------------------------------------------------------ loads and stores

template <class T> FASTCE_INLINE vec<T> load(const T *from) {
    vec<T> x;
    std::memcpy(&x.v, from, sizeof x.v);
    return x;
}
template <class T> FASTCE_INLINE void store(T *to, vec<T> x) { std::memcpy(to, &x.v, sizeof x.v); }

// The first `count` < lanes elements, `fill` in the rest; nothing past them is read.
template <class T> FASTCE_INLINE vec<T> load_first(const T *from, std::ptrdiff_t count, T fill) {
    T lane[vec<T>::lanes];
    for (int i = 0; i < vec<T>::lanes; ++i)
        lane[i] = fill;
    std::memcpy(lane, from, std::size_t(count) * sizeof(T));
    return load(lane);
}
template <class T> FASTCE_INLINE void store_first(T *to, std::ptrdiff_t count, vec<T> x) {
    T lane[vec<T>::lanes];
    store(lane, x);
    std::memcpy(to, lane, std::size_t(count) * sizeof(T));
}
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX2__)
// Masked moves: memcpy of a variable length is a call.
FASTCE_INLINE __m256i first_lanes(float, std::ptrdiff_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FASTCE_INLINE __m256i first_lanes(double, std::ptrdiff_t count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}
template <> FASTCE_INLINE vec<float> load_first(const float *from, std::ptrdiff_t count, float fill) {
    const __m256i first = first_lanes(fill, count);
    return vec<float>(_mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(from, first),
                                       _mm256_castsi256_ps(first)));
}
template <> FASTCE_INLINE vec<double> load_first(const double *from, std::ptrdiff_t count, double fill) {
    const __m256i first = first_lanes(fill, count);
    return vec<double>(_mm256_blendv_pd(_mm256_set1_pd(fill), _mm256_maskload_pd(from, first),
                                        _mm256_castsi256_pd(first)));
}
template <> FASTCE_INLINE void store_first(float *to, std::ptrdiff_t count, vec<float> x) {
    _mm256_maskstore_ps(to, first_lanes(0.0f, count), x.v);
}
template <> FASTCE_INLINE void store_first(double *to, std::ptrdiff_t count, vec<double> x) {
    _mm256_maskstore_pd(to, first_lanes(0.0, count), x.v);
}
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
template <> FASTCE_INLINE vec<float> load_first(const float *from, std::ptrdiff_t count, float fill) {
    return vec<float>(_mm512_mask_loadu_ps(_mm512_set1_ps(fill), __mmask16((1u << count) - 1), from));
}
template <> FASTCE_INLINE vec<double> load_first(const double *from, std::ptrdiff_t count, double fill) {
    return vec<double>(_mm512_mask_loadu_pd(_mm512_set1_pd(fill), __mmask8((1u << count) - 1), from));
}
template <> FASTCE_INLINE void store_first(float *to, std::ptrdiff_t count, vec<float> x) {
    _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), x.v);
}
template <> FASTCE_INLINE void store_first(double *to, std::ptrdiff_t count, vec<double> x) {
    _mm512_mask_storeu_pd(to, __mmask8((1u << count) - 1), x.v);
}
#endif

// One element at any address.
template <class T> FASTCE_INLINE T read(const T *from) {
    T x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
template <class T> FASTCE_INLINE void write(T *to, T x) { std::memcpy(to, &x, sizeof x); }

// Lanes as doubles, and back.
template <class T> FASTCE_INLINE void store_widened(double *to, vec<T> x) {
    for (int lane = 0; lane < vec<T>::lanes; ++lane)
        to[lane] = double(x[lane]);
}
template <class T> FASTCE_INLINE vec<T> load_narrowed(const double *from, T) {
    T lane[vec<T>::lanes];
    for (int i = 0; i < vec<T>::lanes; ++i)
        lane[i] = T(from[i]);
    return load(lane);
}

// ------------------------------------------------------------------------------------ reductions

template <class T> FASTCE_INLINE T reduce_max(vec<T> x) {
    T lane[vec<T>::lanes];
    store(lane, x);
    for (int width = vec<T>::lanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i)
            lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
    return lane[0];
}
// In double, halves first: the same order for every caller.
template <class T> FASTCE_INLINE double reduce_add(vec<T> x) {
    double lane[vec<T>::lanes];
    store_widened(lane, x);
    for (int width = vec<T>::lanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i)
            lane[i] += lane[i + width];
    return lane[0];
}

// Running sums of the lanes of float vectors in double, of double vectors in double with the
// rounding errors beside it (Knuth's two-sum).
template <class T> class wide_sum;
template <> class wide_sum<float> {
    enum { parts = int(vec<float>::lanes) / int(vec<double>::lanes) };
    vec<double> sum[parts];

public:
    FASTCE_INLINE wide_sum() {
        for (int i = 0; i < parts; ++i)
            sum[i] = vec<double>(0.0);
    }
    FASTCE_INLINE void add(vec<float> x) {
        double lane[vec<float>::lanes];
        store_widened(lane, x);
        for (int i = 0; i < parts; ++i)
            sum[i] = sum[i] + load(lane + i * vec<double>::lanes);
    }
    FASTCE_INLINE void store_lanes(double *to) const {
        for (int i = 0; i < parts; ++i)
            store(to + i * vec<double>::lanes, sum[i]);
    }
    FASTCE_INLINE double total() const {
        vec<double> all = sum[0];
        for (int i = 1; i < parts; ++i)
            all = all + sum[i];
        return reduce_add(all);
    }
};
template <> class wide_sum<double> {
    vec<double> sum, error;

public:
    FASTCE_INLINE wide_sum() : sum(0.0), error(0.0) {}
    FASTCE_INLINE void add(vec<double> x) {
        const vec<double> next = sum + x, rounded = next - sum;
        error = error + ((sum - (next - rounded)) + (x - rounded));
        sum = next;
    }
    FASTCE_INLINE vec<double> corrected() const {  // an infinite sum has NaN for its error
        return select(equal(sum - sum, vec<double>(0.0)), sum + error, sum);
    }
    FASTCE_INLINE void store_lanes(double *to) const { store(to, corrected()); }
    FASTCE_INLINE double total() const { return reduce_add(corrected()); }
};

// Watches whether all numbers seen lie in [0, 1], at one operation a vector: as unsigned integers such
// numbers lie from 0 to the bits of 1, negative numbers and NaN above. -0.0 is suspected wrongly.
template <class T> class unit_watch {
    typedef typename native_of<T>::unsigned_bits bits;
    typedef typename bits_of<T>::unsigned_type integer;
    bits largest;

public:
    FASTCE_INLINE unit_watch() : largest(bits{}) {}
    FASTCE_INLINE void see(vec<T> x) {
        const bits seen = bit_cast<bits>(x.v);
        largest = seen > largest ? seen : largest;
    }
    FASTCE_INLINE bool suspects() const {
        integer lane[vec<T>::lanes];
        std::memcpy(lane, &largest, sizeof largest);
        bool found = false;
        for (int i = 0; i < vec<T>::lanes; ++i)
            found |= lane[i] > bit_cast<integer>(T(1));
        return found;
    }
};

// ---------------------------------------------------------------------------- elementary functions

// constants<T>: what differs between the precisions of one algorithm.
template <class T> struct constants;
template <> struct constants<float> {
    enum { mantissa = 23, bias = 127 };
    static FASTCE_INLINE float rounder() { return 0x1.8p23f; }  // adding it rounds to an integer
    static FASTCE_INLINE float ln2_high() { return 0x1.62e4p-1f; }  // 15 bits: k * ln2_high is exact
    static FASTCE_INLINE float ln2_low() { return 0x1.7f7d1cp-20f; }
    static FASTCE_INLINE float exp_clamp() { return -160.0f; }
    enum { raised = 64 };
    static FASTCE_INLINE double lowering() { return 0x1p-64; }
};
template <> struct constants<double> {
    enum { mantissa = 52, bias = 1023 };
    static FASTCE_INLINE double rounder() { return 0x1.8p52; }
    static FASTCE_INLINE double ln2_high() { return 0x1.62e42fefp-1; }  // 33 bits
    static FASTCE_INLINE double ln2_low() { return 0x1.473de6af278edp-34; }
    static FASTCE_INLINE double exp_clamp() { return -1200.0; }
    enum { raised = 512 };
    static FASTCE_INLINE double lowering() { return 0x1p-512; }
};

// c0 + c1 x + c2 x^2 + ..., by Estrin's scheme: pairs first, so that the longest chain grows with the
// logarithm of the degree. Horner's rule has fewer operations, but its chain of 4 cycles a step is
// what the loops then wait for: BCE took 1.46 ns an element with it.
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

#if defined(__FMA__) && FASTCE_VECTOR_BYTES == 32
FASTCE_INLINE vec<float> fused_difference(vec<float> a, vec<float> b, vec<float> c) {
    return _mm256_fmsub_ps(a.v, b.v, c.v);
}
FASTCE_INLINE vec<double> fused_difference(vec<double> a, vec<double> b, vec<double> c) {
    return _mm256_fmsub_pd(a.v, b.v, c.v);
}
#elif defined(__AVX512F__) && FASTCE_VECTOR_BYTES == 64
FASTCE_INLINE vec<float> fused_difference(vec<float> a, vec<float> b, vec<float> c) {
    return _mm512_fmsub_ps(a.v, b.v, c.v);
}
FASTCE_INLINE vec<double> fused_difference(vec<double> a, vec<double> b, vec<double> c) {
    return _mm512_fmsub_pd(a.v, b.v, c.v);
}
#endif

// What rounding took from a * b, given the rounded product.
template <class T> FASTCE_INLINE vec<T> product_error(vec<T> a, vec<T> b, vec<T> product) {
#if defined(__FMA__) && (FASTCE_VECTOR_BYTES == 32 || (FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)))
    // The intrinsic, because a * b - product written out is simplified to product - product.
    return fused_difference(a, b, product);
#else
    // Halves of the mantissa multiply exactly (Dekker 1971); the upper half is cut off by a mask.
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    const integer upper = integer(-1) << ((constants<T>::mantissa + 1) / 2);
    const vec<T> a_high(bit_cast<typename vec<T>::native>(bits(bit_cast<bits>(a.v) & upper)));
    const vec<T> b_high(bit_cast<typename vec<T>::native>(bits(bit_cast<bits>(b.v) & upper)));
    const vec<T> a_low = a - a_high, b_low = b - b_high;
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
}

// 2^power e^(x - excess) for 0 >= x, |excess| tiny; 0 where 2^power e^x would be subnormal (to make
// subnormal numbers costs over 100 cycles on many CPUs, and a row masked with -1e9 would pay it on
// every element), so e^-inf = 0. Without a power, x may be up to 88 (float) or 709 (double).
// x = k ln2 + r; adding the rounder leaves k + bias + power in the low bits of the sum, from where one
// shift moves it into the exponent. Where it is negative, the maximum with 0 makes 0.0 of it.
template <class T> FASTCE_INLINE vec<T> exp_times_power(vec<T> x, vec<T> excess, int power) {
    typedef constants<T> c;
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    const vec<T> clamped = max(vec<T>(c::exp_clamp()), x);
    const vec<T> biased_rounder(c::rounder() + T(int(c::bias) + power));
    const vec<T> shifted = fma(clamped, vec<T>(T(1.4426950408889634)), biased_rounder);
    const vec<T> k = shifted - biased_rounder;
    vec<T> r = fma(k, vec<T>(-c::ln2_high()), clamped);
    r = fma(k, vec<T>(-c::ln2_low()), r) - excess;  // a difference: x - 0 costs nothing, x + 0 does
    const vec<T> r2 = r * r;
    const vec<T> e_less_1 = fma(r2, exp_polynomial(r, r2), r);
    const bits exponent = bit_cast<bits>(shifted.v) << integer(c::mantissa);
    const vec<T> scale(bit_cast<typename vec<T>::native>(
        bits(exponent > 0 ? exponent : exponent - exponent)));
    return fma(e_less_1, scale, scale);
}
// Worst error 1.1 ULP, over every float whose exponential is a normal number.
template <class T> FASTCE_INLINE vec<T> exp(vec<T> x) {
    return exp_times_power(x, vec<T>(T(0)), 0);
}
template <class T> FASTCE_INLINE vec<T> exp(vec<T> x, vec<T> excess) {
    return exp_times_power(x, excess, 0);
}
// Raised exponentials, 2^64 e^x or 2^512 e^x, have no subnormal values down to e^-131 or e^-1062:
// their sums keep all digits as long as the sum itself is a normal number, at no cost.
template <class T> FASTCE_INLINE vec<T> raised_exp(vec<T> x) {
    return exp_times_power(x, vec<T>(T(0)), constants<T>::raised);
}
template <class T> FASTCE_INLINE double lowering(T) { return constants<T>::lowering(); }
// Below this a factor that also lowers raised exponentials would be subnormal.
template <class T> FASTCE_INLINE double smallest_lowering(T) {
    return double(std::numeric_limits<T>::min()) / constants<T>::lowering();
}

// log(1 + x) in float for x in [0, 1]: all that softplus and its tail need. Worst error 1.5 ULP
// (1.2 with FMA), over every float in the range. log(1 + x) = 2 atanh(s), s = x / (2 + x), written x - s (x - tail) so that
// x itself enters unrounded. The division runs beside the multiplications, which the loops wait for:
// a polynomial in x alone needs 11 of them, this 7 (the loss alone of BCE: 0.52 ns an
// element with AVX2 then, and 0.50 now).
template <class T> vec<T> log1p(vec<T> x);
template <> FASTCE_INLINE vec<float> log1p(vec<float> x) {
    const vec<float> s = x / (x + 2.0f), z = s * s;
    const vec<float> p01 = pair(0x1.55554cp-1f, 0x1.99ad8cp-2f, z);
    const vec<float> p23 = pair(0x1.2120c4p-2f, 0x1.13115cp-2f, z);
    const vec<float> p = fma(p23, z * z, p01);
    return fma(-s, x - z * p, x);
}

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

// log(u + low) for normal u up to 2^127 (float) or 2^1023 (double), low being what rounding lost of u.
// NaN passes through; 0 and subnormal numbers give about log of the smallest normal number.
// Worst error 1.0 ULP.
// u = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and log(1 + f) = 2 atanh(s), s = f / (2 + f),
// written f - s (f - tail) so that f itself enters unrounded.
template <class T> FASTCE_INLINE vec<T> log(vec<T> u, vec<T> low) {
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
    const vec<T> k = vec<T>(bit_cast<native>(bits(biased_k | two_power))) -
                     vec<T>(bit_cast<T>(two_power) + T(bias));
    const vec<T> scaled(bit_cast<native>(bits(u_bits - ((biased_k - bias) << mantissa))));
    const vec<T> inverse_scale(bit_cast<native>(bits((2 * bias - biased_k) << mantissa)));
    const vec<T> f = fma(low, inverse_scale, scaled - vec<T>(T(1)));
    const vec<T> s = f / (f + vec<T>(T(2)));
    const vec<T> z = s * s;
    const vec<T> rest = fma(-s, f - z * atanh_polynomial(z), k * vec<T>(c::ln2_low()));
    return fma(k, vec<T>(c::ln2_high()), f + rest) + (u - u);
}
template <class T> FASTCE_INLINE vec<T> log(vec<T> u) { return log(u, vec<T>(T(0))); }

// log(1 + x) in double for 0 <= x < 2^53; NaN passes through. Worst error 1.6 ULP.
template <> FASTCE_INLINE vec<double> log1p(vec<double> x) {
    const vec<double> u = x + vec<double>(1.0);
    return log(u, x - (u - vec<double>(1.0)));
}

// ---------------------------------------------------------------------------------- 16-bit floats

// IEEE half and bfloat16 as they lie in memory. Both widen to float without loss; narrowing rounds to
// nearest, ties to even, and keeps NaN.
struct half { std::uint16_t bits; };
struct bfloat16 { std::uint16_t bits; };

#if FASTCE_VECTOR_BYTES
typedef std::uint16_t short_native __attribute__((vector_size(FASTCE_VECTOR_BYTES / 2)));
typedef native_of<float>::unsigned_bits word_native;
FASTCE_INLINE word_native load_words(const void *from) {
    short_native x;
    std::memcpy(&x, from, sizeof x);
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX2__)
    return word_native(_mm256_cvtepu16_epi32(__m128i(x)));  // GCC 12 converts the halves apart
#else
    return __builtin_convertvector(x, word_native);
#endif
}
FASTCE_INLINE void store_words(void *to, word_native x) {
    const short_native narrow = __builtin_convertvector(x, short_native);
    std::memcpy(to, &narrow, sizeof narrow);
}
#else
typedef std::uint32_t word_native;
FASTCE_INLINE word_native load_words(const void *from) {
    std::uint16_t x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
FASTCE_INLINE void store_words(void *to, word_native x) {
    const std::uint16_t narrow = std::uint16_t(x);
    std::memcpy(to, &narrow, sizeof narrow);
}
#endif

FASTCE_INLINE vec<float> as_float(word_native bits) {
    return vec<float>(bit_cast<vec<float>::native>(bits));
}
FASTCE_INLINE vec<float> load(const bfloat16 *from) { return as_float(load_words(from) << 16); }
FASTCE_INLINE void store(bfloat16 *to, vec<float> x) {
    const word_native bits = bit_cast<word_native>(x.v);
    const word_native rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    store_words(to, x.v == x.v ? rounded : (bits >> 16) | 0x40);
}
#if FASTCE_VECTOR_BYTES == 32 && defined(__F16C__)
FASTCE_INLINE vec<float> load(const half *from) {
    return vec<float>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
}
FASTCE_INLINE void store(half *to, vec<float> x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
FASTCE_INLINE vec<float> load(const half *from) {
    return vec<float>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from))));
}
FASTCE_INLINE void store(half *to, vec<float> x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
#else
// Widening: the 15 bits at the place of float's exponent and mantissa are the number times 2^-112,
// subnormal numbers included.
FASTCE_INLINE vec<float> load(const half *from) {
    const word_native bits = load_words(from);
    const word_native magnitude = (bits & 0x7fff) << 13;
    const word_native scaled = bit_cast<word_native>((as_float(magnitude) * vec<float>(0x1p112f)).v);
    const word_native special = magnitude | 0x7f800000;
    return as_float((magnitude < (31u << 23) ? scaled : special) | ((bits & 0x8000) << 16));
}
// Narrowing: below 2^-14 the addition of 0.5 leaves the rounded subnormal in the low bits; above, the
// exponent is rebiased and the mantissa rounded as an integer.
FASTCE_INLINE void store(half *to, vec<float> x) {
    const word_native bits = bit_cast<word_native>(x.v);
    const word_native magnitude = bits & 0x7fffffff;
    const word_native subnormal =
        bit_cast<word_native>((as_float(magnitude) + vec<float>(0.5f)).v) - 0x3f000000;
    const word_native normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    const word_native infinity = magnitude - magnitude + 0x7c00;
    word_native rounded = magnitude < (113u << 23) ? subnormal : normal;
    rounded = magnitude < 0x477ff000 ? rounded : infinity;  // 65520 and more round to infinity
    rounded = magnitude > 0x7f800000 ? infinity | 0x200 : rounded;
    store_words(to, rounded | ((bits >> 16) & 0x8000));
}
#endif

// ------------------------------------------------------------------------------------ transposition

// A vector takes rows at a time: its 16-byte piece q holds rows q * quad to q * quad + quad - 1, where a
// quad is the elements of 16 bytes. Loading the pieces from memory spares the exchanges across pieces
// that a transposition of whole vectors needs (24 instead of 32 operations for 8 x 8 floats), and
// classes come in fours (twos for double) instead of eights.
template <class T> FASTCE_INLINE int quad(T) {
    return int(vec<T>::lanes) < int(16 / sizeof(T)) ? int(vec<T>::lanes) : int(16 / sizeof(T));
}
#if FASTCE_VECTOR_BYTES
template <class T> struct piece_of { typedef T type __attribute__((vector_size(16))); };
enum { pieces = FASTCE_VECTOR_BYTES / 16 };

// Pieces of rows first, first + quad, ...; `at(row)` is where a row's piece lies.
template <bool All, class T>
FASTCE_INLINE vec<T> load_pieces(const char *from, std::ptrdiff_t row_stride, std::ptrdiff_t last,
                                 std::ptrdiff_t first) {
    typename piece_of<T>::type piece[pieces];
    for (int q = 0; q < pieces; ++q) {
        const std::ptrdiff_t row = first + q * std::ptrdiff_t(16 / sizeof(T));
        std::memcpy(&piece[q], from + (All || row < last ? row : last) * row_stride, 16);
    }
    vec<T> x;
    // Not by way of memory: a load does not wait well for four smaller stores (10 classes with AVX-512:
    // load_tile took 4 of 12 ns a row).
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    const __m256i joined = _mm256_set_m128i(bit_cast<__m128i>(piece[1]), bit_cast<__m128i>(piece[0]));
    std::memcpy(&x.v, &joined, sizeof x.v);
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    __m512i joined = _mm512_castsi128_si512(bit_cast<__m128i>(piece[0]));
    joined = _mm512_inserti32x4(joined, bit_cast<__m128i>(piece[1]), 1);
    joined = _mm512_inserti32x4(joined, bit_cast<__m128i>(piece[2]), 2);
    joined = _mm512_inserti32x4(joined, bit_cast<__m128i>(piece[3]), 3);
    std::memcpy(&x.v, &joined, sizeof x.v);
#else
    std::memcpy(&x.v, piece, sizeof x.v);
#endif
    return x;
}
template <bool All, class T>
FASTCE_INLINE void store_pieces(char *to, std::ptrdiff_t row_stride, std::ptrdiff_t last,
                                std::ptrdiff_t first, vec<T> x) {
    typename piece_of<T>::type piece[pieces];
    std::memcpy(piece, &x.v, sizeof x.v);
    for (int q = 0; q < pieces; ++q) {
        const std::ptrdiff_t row = first + q * std::ptrdiff_t(16 / sizeof(T));
        if (All || row <= last)
            std::memcpy(to + row * row_stride, &piece[q], 16);
    }
}
// Interleaves a and b within each piece: the lower halves, or (High) the upper ones. Width counts the
// elements that stay together.
template <int High, int Width, class T> FASTCE_INLINE vec<T> interleave(vec<T> a, vec<T> b) {
    typedef typename native_of<T>::bits bits;
    enum { n = vec<T>::lanes, q = 16 / sizeof(T) };
    bits from = {};
    for (int i = 0; i < n; ++i) {
        const int within = i % q, unit = within / Width;
        from[i] = i - within + (High ? q / 2 : 0) + (unit / 2) * Width + within % Width +
                  (unit % 2 ? n : 0);
    }
    vec<T> x;
    x.v = __builtin_shuffle(a.v, b.v, from);
    return x;
}
FASTCE_INLINE void transpose_pieces(vec<float> *x) {
    const vec<float> ab_low = interleave<0, 1>(x[0], x[1]), ab_high = interleave<1, 1>(x[0], x[1]);
    const vec<float> cd_low = interleave<0, 1>(x[2], x[3]), cd_high = interleave<1, 1>(x[2], x[3]);
    x[0] = interleave<0, 2>(ab_low, cd_low);
    x[1] = interleave<1, 2>(ab_low, cd_low);
    x[2] = interleave<0, 2>(ab_high, cd_high);
    x[3] = interleave<1, 2>(ab_high, cd_high);
}
FASTCE_INLINE void transpose_pieces(vec<double> *x) {
    const vec<double> low = interleave<0, 1>(x[0], x[1]), high = interleave<1, 1>(x[0], x[1]);
    x[0] = low;
    x[1] = high;
}
#else
template <bool, class T>
FASTCE_INLINE vec<T> load_pieces(const char *from, std::ptrdiff_t row_stride, std::ptrdiff_t last,
                                 std::ptrdiff_t first) {
    return vec<T>(read(reinterpret_cast<const T *>(from + (first < last ? first : last) * row_stride)));
}
template <bool, class T>
FASTCE_INLINE void store_pieces(char *to, std::ptrdiff_t row_stride, std::ptrdiff_t last,
                                std::ptrdiff_t first, vec<T> x) {
    if (first <= last)
        write(reinterpret_cast<T *>(to + first * row_stride), x.v);
}
template <class T> FASTCE_INLINE void transpose_pieces(vec<T> *) {}
#endif

// Columns [0, quad) of a vector of rows, from or to where the first row's lie; rows past `last` repeat
// it, or are not stored.
template <class T> FASTCE_INLINE void load_columns(const char *from, std::ptrdiff_t row_stride,
                                                   std::ptrdiff_t last, vec<T> *columns) {
    if (last + 1 >= int(vec<T>::lanes))  // all rows exist: no test for each
        for (int k = 0; k < quad(T()); ++k)
            columns[k] = load_pieces<true, T>(from, row_stride, last, k);
    else
        for (int k = 0; k < quad(T()); ++k)
            columns[k] = load_pieces<false, T>(from, row_stride, last, k);
    transpose_pieces(columns);
}
template <class T> FASTCE_INLINE void store_columns(char *to, std::ptrdiff_t row_stride,
                                                    std::ptrdiff_t last, vec<T> *columns) {
    transpose_pieces(columns);
    if (last + 1 >= int(vec<T>::lanes))
        for (int k = 0; k < quad(T()); ++k)
            store_pieces<true>(to, row_stride, last, k, columns[k]);
    else
        for (int k = 0; k < quad(T()); ++k)
            store_pieces<false>(to, row_stride, last, k, columns[k]);
}

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
