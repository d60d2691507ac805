// 16-bit floats as SIMD vectors of float. Included by simd.hpp.
#pragma once

#include "simd.hpp"

namespace {
namespace simd {

// IEEE half and bfloat16 as stored in memory. Both widen to float without loss; narrowing rounds to
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
    return word_native(_mm256_cvtepu16_epi32(__m128i(x)));  // GCC 12 converts the halves separately
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
// Widening: the low 15 bits, moved to where float has its exponent and mantissa, are the number times 2^-112, subnormal
// numbers included.
FASTCE_INLINE vec<float> load(const half *from) {
    const word_native bits = load_words(from);
    const word_native magnitude = (bits & 0x7fff) << 13;
    const word_native scaled = bit_cast<word_native>((as_float(magnitude) * vec<float>(0x1p112f)).v);
    const word_native special = magnitude | 0x7f800000;
    return as_float((magnitude < (31u << 23) ? scaled : special) | ((bits & 0x8000) << 16));
}
// Narrowing: below 2^-14, adding 0.5 leaves the rounded subnormal in the low bits. Above, the exponent is rebiased and
// the mantissa rounded as an integer.
FASTCE_INLINE void store(half *to, vec<float> x) {
    const word_native bits = bit_cast<word_native>(x.v);
    const word_native magnitude = bits & 0x7fffffff;
    const word_native subnormal =
        bit_cast<word_native>((as_float(magnitude) + vec<float>(0.5f)).v) - 0x3f000000;
    const word_native normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    const word_native infinity = magnitude - magnitude + 0x7c00;
    word_native rounded = magnitude < (113u << 23) ? subnormal : normal;
    rounded = magnitude < 0x477ff000 ? rounded : infinity;  // 65520 and above round to infinity
    rounded = magnitude > 0x7f800000 ? infinity | 0x200 : rounded;
    store_words(to, rounded | ((bits >> 16) & 0x8000));
}
#endif

}  // namespace simd
}  // namespace
