// SIMD vectors of float or double, one width per compilation, and the elementary functions on them.
//
// The kernels are written once over vec<T> and compiled once per instruction set; the width follows from the compiler's
// flags. Everything is in an anonymous namespace: the linker must never keep an inline function that was compiled for
// AVX2 as the copy for the baseline.
//
// Conventions: NaN propagates through every function. No function sets errno. Loads and stores accept any address (they
// use memcpy, which compiles to one unaligned move). A "range" is where the stated error holds. Polynomials come from
// tools/polynomials.py, errors from tests/kernels/test_elementary.py.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

// Whether the compiler has GCC's vectors, attributes and builtins. Clang has them, even as clang-cl, which does not
// define the GNU macro.
#if defined(__GNUC__) || defined(__clang__)
#define FASTCE_GNU 1
#else
#define FASTCE_GNU 0
#endif

#if defined(__SSE2__) && FASTCE_GNU
#include <immintrin.h>
#elif defined(__aarch64__) && FASTCE_GNU
#include <arm_neon.h>
#endif

// Bytes per vector. 0 means no vector extension and one element at a time (MSVC, or to test that path). Setting it to
// 64 on AVX2 runs the logic for 16 lanes on a machine without AVX-512.
#if !defined(FASTCE_VECTOR_BYTES)
#if !FASTCE_GNU
#define FASTCE_VECTOR_BYTES 0
#elif defined(__AVX512F__)
#define FASTCE_VECTOR_BYTES 64
#elif defined(__AVX__)
#define FASTCE_VECTOR_BYTES 32
#else
#define FASTCE_VECTOR_BYTES 16
#endif
#endif

#if FASTCE_GNU
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
    std::memcpy(static_cast<void *>(&to), &from, sizeof to);
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
    FASTCE_INLINE vec(T scalar) : v(scalar - native{}) {}  // a broadcast: x - 0 is x, even for -0.0
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
// yes if the sign bit of x is set (-0.0 included), else no: one blend, without a comparison.
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
// x, with its sign changed if the sign bit of `by` is set.
template <class T> FASTCE_INLINE vec<T> flip_sign(vec<T> x, vec<T> by) {
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    return vec<T>(bit_cast<typename vec<T>::native>(bits(
        bit_cast<bits>(x.v) ^ (bit_cast<bits>(by.v) & std::numeric_limits<integer>::min()))));
}
// x if the mask holds, else +0, which makes 0 * inf harmless; and the reverse.
template <class T> FASTCE_INLINE vec<T> zero_unless(mask<T> m, vec<T> x) { return select(m, x, vec<T>(T(0))); }
#if FASTCE_VECTOR_BYTES && !(FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__))
template <class T> FASTCE_INLINE vec<T> zero_where(mask<T> m, vec<T> x) {
    typedef typename native_of<T>::bits bits;  // one and-not; GCC would blend with zero
    return vec<T>(bit_cast<typename vec<T>::native>(bits(~m.v & bit_cast<bits>(x.v))));
}
#else  // AVX-512 zeroes lanes at no cost
template <class T> FASTCE_INLINE vec<T> zero_where(mask<T> m, vec<T> x) { return select(m, vec<T>(T(0)), x); }
#endif

// sum + x if the mask holds, else sum. AVX-512 can skip lanes in an addition.
template <class T> FASTCE_INLINE vec<T> add_where(mask<T> m, vec<T> sum, vec<T> x) {
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return select(m, sum + x, sum);
#else
    return sum + zero_unless(m, x);
#endif
}

// The larger and the smaller of two numbers; b if either is NaN (so max(limit, x) passes a NaN x on). That is what
// maxps does, but GCC emits a comparison and a blend unless told that there are neither NaNs nor signed zeros.
template <class T> FASTCE_INLINE vec<T> max(vec<T> a, vec<T> b) {
    return vec<T>(typename vec<T>::native(a.v > b.v ? a.v : b.v));
}
template <class T> FASTCE_INLINE vec<T> min(vec<T> a, vec<T> b) {
    return vec<T>(typename vec<T>::native(a.v < b.v ? a.v : b.v));
}
#if FASTCE_VECTOR_BYTES == 16 && defined(__SSE2__)
template <> FASTCE_INLINE vec<float> max(vec<float> a, vec<float> b) { return _mm_max_ps(a.v, b.v); }
template <> FASTCE_INLINE vec<double> max(vec<double> a, vec<double> b) { return _mm_max_pd(a.v, b.v); }
template <> FASTCE_INLINE vec<float> min(vec<float> a, vec<float> b) { return _mm_min_ps(a.v, b.v); }
template <> FASTCE_INLINE vec<double> min(vec<double> a, vec<double> b) { return _mm_min_pd(a.v, b.v); }
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
template <> FASTCE_INLINE vec<float> max(vec<float> a, vec<float> b) { return _mm256_max_ps(a.v, b.v); }
template <> FASTCE_INLINE vec<double> max(vec<double> a, vec<double> b) { return _mm256_max_pd(a.v, b.v); }
template <> FASTCE_INLINE vec<float> min(vec<float> a, vec<float> b) { return _mm256_min_ps(a.v, b.v); }
template <> FASTCE_INLINE vec<double> min(vec<double> a, vec<double> b) { return _mm256_min_pd(a.v, b.v); }
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
template <> FASTCE_INLINE vec<float> max(vec<float> a, vec<float> b) { return _mm512_max_ps(a.v, b.v); }
template <> FASTCE_INLINE vec<double> max(vec<double> a, vec<double> b) { return _mm512_max_pd(a.v, b.v); }
template <> FASTCE_INLINE vec<float> min(vec<float> a, vec<float> b) { return _mm512_min_ps(a.v, b.v); }
template <> FASTCE_INLINE vec<double> min(vec<double> a, vec<double> b) { return _mm512_min_pd(a.v, b.v); }
#endif
template <class T> FASTCE_INLINE vec<T> abs(vec<T> x) {
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    return vec<T>(bit_cast<typename vec<T>::native>(
        bits(bit_cast<bits>(x.v) & std::numeric_limits<integer>::max())));
}
// The larger of |x| and `most`, which is not negative; and the lower of x and `least` if one is negative, otherwise
// either. AVX-512 compares integers, in units that multiplications do not occupy. NaN may pass through.
template <class T> FASTCE_INLINE vec<T> max_magnitude(vec<T> x, vec<T> most) {
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    typedef typename native_of<T>::bits bits;
    const bits a = bit_cast<bits>(abs(x).v), b = bit_cast<bits>(most.v);
    return vec<T>(bit_cast<typename vec<T>::native>(bits(a > b ? a : b)));
#else
    return max(abs(x), most);
#endif
}
template <class T> FASTCE_INLINE vec<T> lower_if_negative(vec<T> x, vec<T> least) {
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    typedef typename native_of<T>::unsigned_bits bits;
    const bits a = bit_cast<bits>(x.v), b = bit_cast<bits>(least.v);
    return vec<T>(bit_cast<typename vec<T>::native>(bits(a > b ? a : b)));
#else
    return min(x, least);
#endif
}
// -|x|, in one operation that sets the sign bit.
template <class T> FASTCE_INLINE vec<T> negative_abs(vec<T> x) {
    typedef typename native_of<T>::bits bits;
    typedef typename bits_of<T>::type integer;
    return vec<T>(bit_cast<typename vec<T>::native>(
        bits(bit_cast<bits>(x.v) | std::numeric_limits<integer>::min())));
}
// a * b + c, a * b - c and c - a * b: rounded once, by an explicit instruction, if the instruction set has one
// (FASTCE_FMA), otherwise rounded twice. setup.py forbids compilers to fuse any other operations, so no result depends
// on which expressions a loop contains, nor on the compiler.
#if defined(__FMA__) || (defined(__aarch64__) && FASTCE_GNU)
#define FASTCE_FMA 1
#else
#define FASTCE_FMA 0
#endif
template <class T> vec<T> fma(vec<T> a, vec<T> b, vec<T> c);
#if !FASTCE_FMA
template <class T> FASTCE_INLINE vec<T> fma(vec<T> a, vec<T> b, vec<T> c) { return a * b + c; }
#elif FASTCE_VECTOR_BYTES == 16 && defined(__aarch64__)
template <> FASTCE_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) { return vfmaq_f32(c.v, a.v, b.v); }
template <> FASTCE_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
    return vfmaq_f64(c.v, a.v, b.v);
}
#elif FASTCE_VECTOR_BYTES == 32 && defined(__FMA__)
template <> FASTCE_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) {
    return _mm256_fmadd_ps(a.v, b.v, c.v);
}
template <> FASTCE_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
    return _mm256_fmadd_pd(a.v, b.v, c.v);
}
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
template <> FASTCE_INLINE vec<float> fma(vec<float> a, vec<float> b, vec<float> c) {
    return _mm512_fmadd_ps(a.v, b.v, c.v);
}
template <> FASTCE_INLINE vec<double> fma(vec<double> a, vec<double> b, vec<double> c) {
    return _mm512_fmadd_pd(a.v, b.v, c.v);
}
#elif FASTCE_VECTOR_BYTES == 64 && defined(__FMA__)  // two registers
template <class T> struct half_of;
template <> struct half_of<float> { typedef __m256 type; };
template <> struct half_of<double> { typedef __m256d type; };
FASTCE_INLINE __m256 fused(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
FASTCE_INLINE __m256d fused(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
template <class T> FASTCE_INLINE vec<T> fma(vec<T> a, vec<T> b, vec<T> c) {
    typename half_of<T>::type x[2], y[2], z[2];
    std::memcpy(x, &a.v, sizeof x);
    std::memcpy(y, &b.v, sizeof y);
    std::memcpy(z, &c.v, sizeof z);
    for (int half = 0; half < 2; ++half)
        z[half] = fused(x[half], y[half], z[half]);
    std::memcpy(&c.v, z, sizeof z);
    return c;
}
#else  // lane by lane
FASTCE_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FASTCE_INLINE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
template <class T> FASTCE_INLINE vec<T> fma(vec<T> a, vec<T> b, vec<T> c) {
    T lane[vec<T>::lanes];
    for (int i = 0; i < vec<T>::lanes; ++i)
        lane[i] = fused(a[i], b[i], c[i]);
    std::memcpy(&c.v, lane, sizeof lane);
    return c;
}
#endif
// By separate instructions: given fma(a, b, -c), GCC 12 negates first.
#if FASTCE_FMA && FASTCE_VECTOR_BYTES == 32
#define FASTCE_FUSED(name) _mm256_##name
#elif FASTCE_FMA && FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
#define FASTCE_FUSED(name) _mm512_##name
#endif
#ifdef FASTCE_FUSED
template <class T> vec<T> fmsub(vec<T> a, vec<T> b, vec<T> c);
template <class T> vec<T> subtract_product(vec<T> c, vec<T> a, vec<T> b);
template <> FASTCE_INLINE vec<float> fmsub(vec<float> a, vec<float> b, vec<float> c) {
    return FASTCE_FUSED(fmsub_ps)(a.v, b.v, c.v);
}
template <> FASTCE_INLINE vec<double> fmsub(vec<double> a, vec<double> b, vec<double> c) {
    return FASTCE_FUSED(fmsub_pd)(a.v, b.v, c.v);
}
template <> FASTCE_INLINE vec<float> subtract_product(vec<float> c, vec<float> a, vec<float> b) {
    return FASTCE_FUSED(fnmadd_ps)(a.v, b.v, c.v);
}
template <> FASTCE_INLINE vec<double> subtract_product(vec<double> c, vec<double> a, vec<double> b) {
    return FASTCE_FUSED(fnmadd_pd)(a.v, b.v, c.v);
}
#else
template <class T> FASTCE_INLINE vec<T> fmsub(vec<T> a, vec<T> b, vec<T> c) { return fma(a, b, -c); }
template <class T> FASTCE_INLINE vec<T> subtract_product(vec<T> c, vec<T> a, vec<T> b) { return fma(-a, b, c); }
#endif
template <class T> FASTCE_INLINE bool any(mask<T> m) {
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    return !_mm256_testz_si256(bit_cast<__m256i>(m.v), bit_cast<__m256i>(m.v));
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return _mm512_test_epi32_mask(bit_cast<__m512i>(m.v), bit_cast<__m512i>(m.v)) != 0;
#elif FASTCE_VECTOR_BYTES
    typename bits_of<T>::type found = 0;
    for (int lane = 0; lane < vec<T>::lanes; ++lane)
        found |= m.v[lane];
    return found != 0;
#else
    return m.v;
#endif
}

// One bit per lane: whether the mask holds there.
template <class T> FASTCE_INLINE std::uint64_t lane_bits(mask<T> m) {
#if FASTCE_VECTOR_BYTES == 16 && defined(__SSE2__)
    return unsigned(sizeof(T) == 4 ? _mm_movemask_ps(bit_cast<__m128>(m.v)) : _mm_movemask_pd(bit_cast<__m128d>(m.v)));
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    return unsigned(sizeof(T) == 4 ? _mm256_movemask_ps(bit_cast<__m256>(m.v))
                                   : _mm256_movemask_pd(bit_cast<__m256d>(m.v)));
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return sizeof(T) == 4 ? unsigned(_mm512_movepi32_mask(bit_cast<__m512i>(m.v)))
                          : unsigned(_mm512_movepi64_mask(bit_cast<__m512i>(m.v)));
#elif FASTCE_VECTOR_BYTES
    std::uint64_t bits = 0;
    for (int lane = 0; lane < vec<T>::lanes; ++lane)
        bits |= std::uint64_t(m.v[lane] != 0) << lane;
    return bits;
#else
    return m.v ? 1 : 0;
#endif
}

// The position of the lowest bit that is 1; there must be one.
FASTCE_INLINE int lowest_bit(std::uint64_t bits) {
#if FASTCE_GNU
    return __builtin_ctzll(bits);
#else
    int position = 0;
    while (!(bits >> position & 1))
        ++position;
    return position;
#endif
}

}  // namespace simd
}  // namespace

#include "memory.hpp"
#include "reductions.hpp"
#include "environment.hpp"
#include "float16.hpp"
#include "functions.hpp"
#include "power.hpp"
#include "transpose.hpp"
