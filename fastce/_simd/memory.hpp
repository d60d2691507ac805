// Loads and stores: whole vectors, the first lanes of one, single elements, bytes as numbers. Included by simd.hpp.
#pragma once

#include "simd.hpp"

namespace {
namespace simd {

template <class T> FASTCE_INLINE vec<T> load(const T *from) {
    vec<T> x;
    std::memcpy(&x.v, from, sizeof x.v);
    return x;
}
// Reads once for several uses: GCC would read memory again for each use, and a load that crosses a cache line costs as
// much as two.
template <class T> FASTCE_INLINE vec<T> load_once(const T *from) {
    vec<T> x = load(from);
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    asm("" : "+v"(x.v));
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    asm("" : "+x"(x.v));
#endif
    return x;
}
template <class T> FASTCE_INLINE void store(T *to, vec<T> x) { std::memcpy(to, &x.v, sizeof x.v); }

// One element at any address.
template <class T> FASTCE_INLINE T read(const T *from) {
    T x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
template <class T> FASTCE_INLINE void write(T *to, T x) { std::memcpy(to, &x, sizeof x); }

// The first `count` <= lanes elements, and `fill` in the other lanes; nothing after them is read.
#if FASTCE_VECTOR_BYTES == 16
// Lane by lane, because memcpy of a variable length is a function call.
template <class T> FASTCE_INLINE vec<T> load_first(const T *from, std::ptrdiff_t count, T fill) {
    enum { lanes = vec<T>::lanes };
    vec<T> x(fill);
    if (count >= lanes)
        return load(from);
    if (count > 0)
        x.v[0] = read(from);
    if (count > 1)
        x.v[1] = read(from + 1);
    if (lanes > 2 && count > 2)
        x.v[lanes / 2] = read(from + 2);
    return x;
}
template <class T> FASTCE_INLINE void store_first(T *to, std::ptrdiff_t count, vec<T> x) {
    enum { lanes = vec<T>::lanes };
    if (count >= lanes)
        return store(to, x);
    if (count > 0)
        write(to, x[0]);
    if (count > 1)
        write(to + 1, x[1]);
    if (lanes > 2 && count > 2)
        write(to + 2, x[lanes / 2]);
}
#else
// Tells the compiler that a count does not exceed the number of lanes, so that it does not warn of longer copies.
template <class T> FASTCE_INLINE std::size_t bytes_of(std::ptrdiff_t count) {
    if (count < 0 || count > vec<T>::lanes)
        __builtin_unreachable();
    return std::size_t(count) * sizeof(T);
}
template <class T> FASTCE_INLINE vec<T> load_first(const T *from, std::ptrdiff_t count, T fill) {
    T lane[vec<T>::lanes];
    for (int i = 0; i < vec<T>::lanes; ++i)
        lane[i] = fill;
    std::memcpy(lane, from, bytes_of<T>(count));
    return load(lane);
}
template <class T> FASTCE_INLINE void store_first(T *to, std::ptrdiff_t count, vec<T> x) {
    T lane[vec<T>::lanes];
    store(lane, x);
    std::memcpy(to, lane, bytes_of<T>(count));
}
#endif
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX2__)
// By masked moves: memcpy of a variable length is a function call.
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
// By halves: a masked store takes 12 cycles or more on Zen.
FASTCE_INLINE void store_half(double *to, std::ptrdiff_t count, __m128d x) {
    if (count & 1)
        _mm_store_sd(to, x);
}
FASTCE_INLINE void store_half(float *to, std::ptrdiff_t count, __m128 x) {
    if (count & 2) {
        _mm_storel_pi(reinterpret_cast<__m64 *>(to), x);
        to += 2;
        x = _mm_movehl_ps(x, x);
    }
    if (count & 1)
        _mm_store_ss(to, x);
}
template <> FASTCE_INLINE void store_first(float *to, std::ptrdiff_t count, vec<float> x) {
    __m128 rest = _mm256_castps256_ps128(x.v);
    if (count & 8)
        return store(to, x);
    if (count & 4) {
        _mm_storeu_ps(to, rest);
        to += 4;
        rest = _mm256_extractf128_ps(x.v, 1);
    }
    store_half(to, count, rest);
}
template <> FASTCE_INLINE void store_first(double *to, std::ptrdiff_t count, vec<double> x) {
    __m128d rest = _mm256_castpd256_pd128(x.v);
    if (count & 4)
        return store(to, x);
    if (count & 2) {
        _mm_storeu_pd(to, rest);
        to += 2;
        rest = _mm256_extractf128_pd(x.v, 1);
    }
    store_half(to, count, rest);
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

// Bytes as numbers, and whether they are not 0. By intrinsics, because GCC 12 converts them one by one.
template <class T> FASTCE_INLINE vec<T> load_bytes(const unsigned char *from, T) {
#if FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
    else
        return _mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
#elif FASTCE_VECTOR_BYTES == 32 && defined(__AVX2__)
    if constexpr (sizeof(T) == 4)
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
    std::int32_t four;
    std::memcpy(&four, from, sizeof four);
    return bit_cast<vec<T>>(_mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(four))));
#elif FASTCE_VECTOR_BYTES
    typedef unsigned char bytes __attribute__((vector_size(vec<T>::lanes)));
    bytes x;
    std::memcpy(&x, from, sizeof x);
    return vec<T>(__builtin_convertvector(x, typename vec<T>::native));
#else
    return vec<T>(T(*from));
#endif
}
template <class T> FASTCE_INLINE mask<T> load_mask(const unsigned char *from, T tag) {
    return less(vec<T>(T(0)), load_bytes(from, tag));
}

}  // namespace simd
}  // namespace
