// Rows to SIMD vectors that run over rows, and back. Included by simd.hpp.
#pragma once

#include "simd.hpp"

namespace {
namespace simd {

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

// Pieces of rows first, first + quad, ...; where not all exist, those past `last` repeat it. `from` is
// where the piece of row `first` lies, or of the last row if that is before it.
template <bool All, class T>
FASTCE_INLINE vec<T> load_pieces(const char *from, std::ptrdiff_t row_stride, std::ptrdiff_t last,
                                 std::ptrdiff_t first) {
    typename piece_of<T>::type piece[pieces];
    for (int q = 0; q < pieces; ++q) {
        const std::ptrdiff_t behind = q * std::ptrdiff_t(16 / sizeof(T)), left = last - first;
        std::memcpy(&piece[q], from + (All || behind < left ? behind : left < 0 ? 0 : left) * row_stride, 16);
    }
    vec<T> x;
    // Not by way of memory: a load does not wait well for four smaller stores (10 classes with AVX-512:
    // load_tile took 4 of 12 ns a row).
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    const __m256i joined = _mm256_set_m128i(bit_cast<__m128i>(piece[1]), bit_cast<__m128i>(piece[0]));
    std::memcpy(&x.v, &joined, sizeof x.v);
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    // By halves: 53 cycles for 16 rows of 10 (Zen 4), and 71 by insertions or masked broadcasts from memory
    // into the whole.
    const __m256i low = _mm256_set_m128i(bit_cast<__m128i>(piece[1]), bit_cast<__m128i>(piece[0]));
    const __m256i high = _mm256_set_m128i(bit_cast<__m128i>(piece[3]), bit_cast<__m128i>(piece[2]));
    const __m512i joined = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
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
// Hides from the compiler how an address came about: it would otherwise keep those of all 16 rows, as
// there are too few registers in lanes of vectors (10 classes with AVX-512: load_tile took 1.4 ns a row
// then).
FASTCE_INLINE const char *next_row(const char *at, std::ptrdiff_t row_stride) {
    at += row_stride;
    asm("" : "+r"(at));
    return at;
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
    return vec<T>(read(reinterpret_cast<const T *>(from)));
}
FASTCE_INLINE const char *next_row(const char *at, std::ptrdiff_t row_stride) { return at + row_stride; }
template <bool, class T>
FASTCE_INLINE void store_pieces(char *to, std::ptrdiff_t row_stride, std::ptrdiff_t last,
                                std::ptrdiff_t first, vec<T> x) {
    if (first <= last)
        write(reinterpret_cast<T *>(to + first * row_stride), x.v);
}
template <class T> FASTCE_INLINE void transpose_pieces(vec<T> *) {}
#endif

template <bool All, class T>
FASTCE_INLINE void load_rows(const char *from, std::ptrdiff_t row_stride, std::ptrdiff_t last,
                             vec<T> *columns) {
    for (int k = 0; k < quad(T()); ++k) {
        columns[k] = load_pieces<All, T>(from, row_stride, last, k);
        if (All || k < last)
            from = next_row(from, row_stride);
    }
}

// Columns [0, quad) of a vector of rows, from or to where the first row's lie; rows past `last` repeat
// it, or are not stored.
template <class T> FASTCE_INLINE void load_columns(const char *from, std::ptrdiff_t row_stride,
                                                   std::ptrdiff_t last, vec<T> *columns) {
    if (last + 1 >= int(vec<T>::lanes))  // all rows exist: no test for each
        load_rows<true>(from, row_stride, last, columns);
    else
        load_rows<false>(from, row_stride, last, columns);
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

// Pieces of Width lanes of a and b by turns: the even ones of both, or (Odd) the odd ones.
template <int Odd, int Width, class T> FASTCE_INLINE vec<T> alternate(vec<T> a, vec<T> b) {
#if FASTCE_VECTOR_BYTES
    typename native_of<T>::bits from = {};
    enum { n = vec<T>::lanes };
    for (int i = 0; i < n; ++i)
        from[i] = (i / Width / 2 * 2 + Odd) * Width + i % Width + (i / Width % 2 ? int(n) : 0);
    vec<T> x;
    x.v = __builtin_shuffle(a.v, b.v, from);
    return x;
#else
    return a;
#endif
}
// The sums of the lanes of as many vectors as a vector has lanes, that of the first in the first lane.
template <int Width = 1> FASTCE_INLINE vec<double> sums_of_lanes(vec<double> *x) {
    if constexpr (Width < int(vec<double>::lanes)) {
        for (int i = 0; i < int(vec<double>::lanes) / Width / 2; ++i)
            x[i] = alternate<0, Width>(x[2 * i], x[2 * i + 1]) + alternate<1, Width>(x[2 * i], x[2 * i + 1]);
        return sums_of_lanes<2 * Width>(x);
    }
    return x[0];
}
// Lane i of the result is the lane of x that the index names.
FASTCE_INLINE vec<float> lanes_at(vec<float> x, const std::int32_t *index) {
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX2__)
    return _mm256_permutevar8x32_ps(x.v, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(index)));
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return _mm512_permutexvar_ps(_mm512_loadu_si512(index), x.v);
#else
    float from[vec<float>::lanes], to[vec<float>::lanes];
    store(from, x);
    for (int lane = 0; lane < vec<float>::lanes; ++lane)
        to[lane] = from[index[lane]];
    return load(to);
#endif
}

}  // namespace simd
}  // namespace
