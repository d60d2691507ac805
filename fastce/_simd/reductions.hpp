// Lanes as doubles, reductions, and running sums. Included by simd.hpp.
#pragma once

#include "simd.hpp"

namespace {
namespace simd {

// Lanes as doubles, in one vector of doubles or two. Two are made by intrinsics, because GCC splits a loop over lanes
// into single conversions.
template <class T> struct wide_vec {
    enum { parts = int(vec<T>::lanes) / int(vec<double>::lanes) };
    vec<double> part[parts];
};
template <class T> FASTCE_INLINE wide_vec<T> widen_lanes(vec<T> x) {
    wide_vec<T> wide;
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
        wide.part[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(x.v));
        wide.part[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1));
        return wide;
    }
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    if constexpr (sizeof(T) == 4) {
        wide.part[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(x.v));
        wide.part[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1));
        return wide;
    }
#elif FASTCE_VECTOR_BYTES == 16 && defined(__SSE2__)
    if constexpr (sizeof(T) == 4) {
        wide.part[0] = _mm_cvtps_pd(x.v);
        wide.part[1] = _mm_cvtps_pd(_mm_movehl_ps(x.v, x.v));
        return wide;
    }
#endif
    double lane[vec<T>::lanes];
    for (int i = 0; i < vec<T>::lanes; ++i)
        lane[i] = double(x[i]);
    for (int i = 0; i < wide_vec<T>::parts; ++i)
        wide.part[i] = load(lane + i * vec<double>::lanes);
    return wide;
}
template <class T> FASTCE_INLINE vec<T> narrow_lanes(wide_vec<T> wide) {
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return vec<T>(_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(wide.part[0].v)),
                                         _mm512_cvtpd_ps(wide.part[1].v), 1));
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    if constexpr (sizeof(T) == 4)
        return vec<T>(_mm256_set_m128(_mm256_cvtpd_ps(wide.part[1].v), _mm256_cvtpd_ps(wide.part[0].v)));
#elif FASTCE_VECTOR_BYTES == 16 && defined(__SSE2__)
    if constexpr (sizeof(T) == 4)
        return vec<T>(_mm_movelh_ps(_mm_cvtpd_ps(wide.part[0].v), _mm_cvtpd_ps(wide.part[1].v)));
#endif
    T lane[vec<T>::lanes];
    for (int i = 0; i < vec<T>::lanes; ++i)
        lane[i] = T(wide.part[i / vec<double>::lanes][i % vec<double>::lanes]);
    return load(lane);
}
// The sum of each lane of the first half and the same lane of the second half, as doubles.
FASTCE_INLINE vec<double> folded(vec<float> x) {
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return _mm512_cvtps_pd(_mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1)));
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    return _mm256_cvtps_pd(_mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1)));
#else
    float lane[vec<float>::lanes];
    double sum[vec<double>::lanes];
    std::memcpy(lane, &x.v, sizeof x.v);
    enum { half = vec<double>::lanes, whole = vec<float>::lanes };
    for (int i = 0; i < int(half); ++i)
        sum[i] = int(half) < int(whole) ? lane[i] + lane[i + half] : lane[i];
    return load(static_cast<const double *>(sum));
#endif
}
// Folded twice: x into the first half of the result, y into the second.
FASTCE_INLINE vec<double> folded_twice(vec<float> x, vec<float> y) {
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(y.v), _mm512_extractf32x8_ps(y.v, 1));
    return _mm512_cvtps_pd(_mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)));
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    const __m128 a = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(y.v), _mm256_extractf128_ps(y.v, 1));
    return _mm256_cvtps_pd(_mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a)));
#else
    float from[2][vec<float>::lanes];
    double sum[vec<double>::lanes];
    std::memcpy(from[0], &x.v, sizeof x.v);
    std::memcpy(from[1], &y.v, sizeof y.v);
    enum { half = vec<double>::lanes, quarter = half / 2 ? half / 2 : 1 };
    for (int i = 0; i < int(half); ++i) {
        const float *lane = from[i / int(quarter) % 2] + i % int(quarter);
        sum[i] = int(half) == 1 ? lane[0] : (lane[0] + lane[half]) + (lane[quarter] + lane[half + quarter]);
    }
    return load(static_cast<const double *>(sum));
#endif
}
template <class T> FASTCE_INLINE void store_wide(double *to, wide_vec<T> wide) {
    for (int i = 0; i < wide_vec<T>::parts; ++i)
        store(to + i * vec<double>::lanes, wide.part[i]);
}
template <class T> FASTCE_INLINE void store_widened(double *to, vec<T> x) { store_wide(to, widen_lanes(x)); }
template <class T> FASTCE_INLINE vec<T> load_narrowed(const double *from, T) {
    wide_vec<T> wide;
    for (int i = 0; i < wide_vec<T>::parts; ++i)
        wide.part[i] = load(from + i * vec<double>::lanes);
    return narrow_lanes(wide);
}

// 64-bit integers, which no instruction of AVX2 converts: their halves become the low bits of 2^84 and 2^52.
template <class T> FASTCE_INLINE vec<T> load_integers(const unsigned long long *from, bool is_signed, T) {
#if FASTCE_VECTOR_BYTES
    typedef native_of<double>::unsigned_bits bits;
    const std::uint64_t sign = is_signed ? 0x80000000u : 0;
    const vec<double> rest(is_signed ? 0x1p84 + 0x1p63 + 0x1p52 : 0x1p84 + 0x1p52);
    wide_vec<T> wide;
    for (int i = 0; i < wide_vec<T>::parts; ++i) {
        bits x;
        std::memcpy(&x, from + i * vec<double>::lanes, sizeof x);
        const bits high = (x >> 32) ^ (0x4530000000000000u | sign);
        const bits low = (x & 0xffffffffu) | 0x4330000000000000u;
        wide.part[i] = vec<double>(bit_cast<native_of<double>::type>(high)) - rest +
                       vec<double>(bit_cast<native_of<double>::type>(low));
    }
    return narrow_lanes<T>(wide);
#else
    return vec<T>(is_signed ? T(std::int64_t(*from)) : T(*from));
#endif
}

// ------------------------------------------------------------------------------------ reductions

// Halves are added first: the same order for every caller and, for sums, for every vector width. They stay in
// registers: through memory they take twice as long, and every row waits for them.
#if defined(__SSE2__) && FASTCE_GNU && FASTCE_VECTOR_BYTES
FASTCE_INLINE float max_of(__m128 x) {
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
FASTCE_INLINE double max_of(__m128d x) { return _mm_cvtsd_f64(_mm_max_sd(x, _mm_unpackhi_pd(x, x))); }
FASTCE_INLINE double sum_of(__m128d x) { return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x))); }
#ifdef __AVX__
FASTCE_INLINE float max_of(__m256 x) {
    return max_of(_mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}
FASTCE_INLINE double max_of(__m256d x) {
    return max_of(_mm_max_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1)));
}
FASTCE_INLINE double sum_of(__m256d x) {
    return sum_of(_mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1)));
}
#endif
#ifdef __AVX512F__
FASTCE_INLINE float max_of(__m512 x) {
    return max_of(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
FASTCE_INLINE double max_of(__m512d x) {
    return max_of(_mm256_max_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1)));
}
FASTCE_INLINE double sum_of(__m512d x) {
    return sum_of(_mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1)));
}
#elif FASTCE_VECTOR_BYTES == 64  // two registers
template <class T> FASTCE_INLINE T max_of_halves(vec<T> x) {
    typename half_of<T>::type half[2];
    std::memcpy(half, &x.v, sizeof half);
    const T low = max_of(half[0]), high = max_of(half[1]);
    return low > high ? low : high;
}
FASTCE_INLINE float max_of(native_of<float>::type x) { return max_of_halves(vec<float>(x)); }
FASTCE_INLINE double max_of(native_of<double>::type x) { return max_of_halves(vec<double>(x)); }
FASTCE_INLINE double sum_of(native_of<double>::type x) {
    __m256d half[2];
    std::memcpy(half, &x, sizeof x);
    return sum_of(_mm256_add_pd(half[0], half[1]));
}
#endif
template <class T> FASTCE_INLINE T reduce_max(vec<T> x) { return max_of(x.v); }
template <class T> FASTCE_INLINE double reduce_add(vec<T> x) {
    const wide_vec<T> wide = widen_lanes(x);
    return sum_of(wide.parts == 1 ? wide.part[0].v : (wide.part[0] + wide.part[wide.parts - 1]).v);
}
#else
template <class T> FASTCE_INLINE T reduce_max(vec<T> x) {
    T lane[vec<T>::lanes];
    store(lane, x);
    for (int width = vec<T>::lanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i)
            lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
    return lane[0];
}
template <class T> FASTCE_INLINE double reduce_add(vec<T> x) {
    double lane[vec<T>::lanes];
    store_widened(lane, x);
    for (int width = vec<T>::lanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i)
            lane[i] += lane[i + width];
    return lane[0];
}
#endif

// The next number above x. Infinity and NaN are returned as they are.
template <class T> FASTCE_INLINE T next_above(T x) {
    typedef typename bits_of<T>::type integer;
    if (!(x < std::numeric_limits<T>::infinity()))
        return x;
    const integer bits = bit_cast<integer>(x + T(0));  // -0 + 0 is +0
    return bit_cast<T>(bits < 0 ? bits - 1 : bits + 1);
}

// A power of two whose product with x lies in [1, 2), for a normal x > 0.
FASTCE_INLINE vec<double> inverse_power(vec<double> x) {
    typedef native_of<double>::bits bits;
    const std::int64_t twice_bias = std::int64_t(2046) << 52, exponents = std::int64_t(0x7ff) << 52;
    return vec<double>(bit_cast<vec<double>::native>(bits(twice_bias - (bit_cast<bits>(x.v) & exponents))));
}

// Running sums per lane: of float vectors in double, of double vectors in double with their rounding errors (Knuth's
// two-sum). A sum that pauses can be resumed from what it stored.
template <class T> class wide_sum;
template <> class wide_sum<float> {
    wide_vec<float> sum;

public:
    FASTCE_INLINE wide_sum() {
        for (int i = 0; i < sum.parts; ++i)
            sum.part[i] = vec<double>(0.0);
    }
    FASTCE_INLINE void add(vec<float> x) {
        const wide_vec<float> wide = widen_lanes(x);
        for (int i = 0; i < sum.parts; ++i)
            sum.part[i] = sum.part[i] + wide.part[i];
    }
    FASTCE_INLINE void pause(double *sums, double *) const { store_wide(sums, sum); }
    FASTCE_INLINE void resume(const double *sums, const double *) {
        for (int i = 0; i < sum.parts; ++i)
            sum.part[i] = load(sums + i * vec<double>::lanes);
    }
    FASTCE_INLINE wide_vec<float> lanes() const { return sum; }
    FASTCE_INLINE wide_vec<float> low_lanes() const { return wide_sum().sum; } // there are no rounding errors
    FASTCE_INLINE double total() const {
        vec<double> all = sum.part[0];
        for (int i = 1; i < sum.parts; ++i)
            all = all + sum.part[i];
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
    FASTCE_INLINE void pause(double *sums, double *errors) const {
        store(sums, sum);
        store(errors, error);
    }
    FASTCE_INLINE void resume(const double *sums, const double *errors) {
        sum = load(sums);
        error = load(errors);
    }
    FASTCE_INLINE vec<double> corrected() const {  // the error of an infinite sum is NaN
        return select(equal(sum - sum, vec<double>(0.0)), sum + error, sum);
    }
    FASTCE_INLINE wide_vec<double> lanes() const {
        wide_vec<double> wide;
        wide.part[0] = corrected();
        return wide;
    }
    FASTCE_INLINE wide_vec<double> low_lanes() const { // the rounding errors of lanes()
        wide_vec<double> wide;
        wide.part[0] = error - (corrected() - sum);
        return wide;
    }
    double total() const { // rounded once
        double lane[vec<double>::lanes], low[vec<double>::lanes], all = 0.0, lost = 0.0;
        store(lane, sum);
        store(low, error);
        for (int i = 0; i < vec<double>::lanes; ++i) {
            const double next = all + lane[i], rounded = next - all;
            lost += ((all - (next - rounded)) + (lane[i] - rounded)) + low[i];
            all = next;
        }
        return all - all == 0.0 ? all + lost : all;
    }
    FASTCE_INLINE vec<double> rounded_sum() const { return sum; }
    FASTCE_INLINE vec<double> rounding_error() const { return error; }
};

// Watches for a number that is farther from 0 than a limit of the same sign, at one operation per vector. As unsigned
// integers, numbers of one sign grow with their distance from 0, and NaN is beyond all. Numbers of the other sign count
// as below a negative limit, and as beyond a positive one (-0.0 too).
template <class T> class bits_watch {
    typedef typename native_of<T>::unsigned_bits bits;
    typedef typename bits_of<T>::unsigned_type integer;
    bits largest;

    FASTCE_INLINE void see_bits(bits seen) { largest = seen > largest ? seen : largest; }
    FASTCE_INLINE bool exceeds_bits(integer limit) const {
        integer lane[vec<T>::lanes];
        std::memcpy(lane, &largest, sizeof largest);
        bool found = false;
        for (int i = 0; i < vec<T>::lanes; ++i)
            found |= lane[i] > limit;
        return found;
    }

public:
    FASTCE_INLINE bits_watch() : largest(bits{}) {}
    FASTCE_INLINE void see(vec<T> x) { see_bits(bit_cast<bits>(x.v)); }
    FASTCE_INLINE bool exceeds(T limit) const { return exceeds_bits(bit_cast<integer>(limit)); }
    // Watches for a number that is not 0 but closer to 0 than the limit. The negated integers are smallest for 0;
    // otherwise they decrease with the distance from 0.
    FASTCE_INLINE void see_nonzero(vec<T> x) { see_bits(-bit_cast<bits>(x.v)); }
    FASTCE_INLINE bool any_nonzero_below(T limit) const { return exceeds_bits(-bit_cast<integer>(limit)); }
};

}  // namespace simd
}  // namespace
