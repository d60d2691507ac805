// Transposition of rows to SIMD vectors over rows, and back. Included by simd.hpp.
#pragma once

#include "simd.hpp"

namespace {
namespace simd {

// A vector is loaded from several rows: its 16-byte piece q holds elements of rows q * quad to q * quad + quad - 1. A
// quad is the number of elements in 16 bytes. Loading pieces from memory avoids the exchanges across pieces that
// transposing whole vectors needs (24 instead of 32 operations for 8 x 8 floats), and classes are processed in fours
// (twos for double) instead of eights.
template <class T> FASTCE_INLINE int quad(T) {
    return int(vec<T>::lanes) < int(16 / sizeof(T)) ? int(vec<T>::lanes) : int(16 / sizeof(T));
}
#if FASTCE_VECTOR_BYTES
template <class T> struct piece_of { typedef T type __attribute__((vector_size(16))); };
enum { pieces = FASTCE_VECTOR_BYTES / 16 };

// Pieces of rows first, first + quad, ... If some do not exist, those past `last` repeat it. `from` is the address of
// the piece of row `first`, or of the last row if that comes before it.
template <bool All, class T>
FASTCE_INLINE vec<T> load_pieces(const char *from, std::ptrdiff_t row_stride, std::ptrdiff_t last,
                                 std::ptrdiff_t first) {
    typename piece_of<T>::type piece[pieces];
    for (int q = 0; q < pieces; ++q) {
        const std::ptrdiff_t behind = q * std::ptrdiff_t(16 / sizeof(T)), left = last - first;
        std::memcpy(&piece[q], from + (All || behind < left ? behind : left < 0 ? 0 : left) * row_stride, 16);
    }
    vec<T> x;
    // Not through memory: a load that covers four smaller stores has to wait until they have left the store buffer.
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX__)
    const __m256i joined = _mm256_set_m128i(bit_cast<__m128i>(piece[1]), bit_cast<__m128i>(piece[0]));
    std::memcpy(&x.v, &joined, sizeof x.v);
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    // By halves, which is faster than insertions into the whole vector or masked broadcasts from memory.
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
// Lane i of the result is lane Source[i] of a followed by b.
template <int... Source, class T>
FASTCE_INLINE vec<T> shuffled(vec<T> a, vec<T> b, std::integer_sequence<int, Source...>) {
    return vec<T>(__builtin_shufflevector(a.v, b.v, Source...));
}
template <class T> using all_lanes = std::make_integer_sequence<int, int(vec<T>::lanes)>;

// Interleaves a and b within each piece: the lower halves, or (High) the upper ones. Width is the number of elements
// that stay together; n is the number of lanes, q that of lanes in a piece.
template <int High, int Width> constexpr int interleaved_lane(int lane, int n, int q) {
    const int within = lane % q, unit = within / Width;
    return lane - within + (High ? q / 2 : 0) + (unit / 2) * Width + within % Width + (unit % 2 ? n : 0);
}
template <int High, int Width, class T, int... Lane>
FASTCE_INLINE vec<T> interleave(vec<T> a, vec<T> b, std::integer_sequence<int, Lane...>) {
    enum { n = vec<T>::lanes, q = 16 / sizeof(T) };
    return shuffled(a, b, std::integer_sequence<int, interleaved_lane<High, Width>(Lane, n, q)...>());
}
template <int High, int Width, class T> FASTCE_INLINE vec<T> interleave(vec<T> a, vec<T> b) {
    return interleave<High, Width>(a, b, all_lanes<T>());
}
// Hides from the compiler how an address was computed. Otherwise it would compute the addresses of all 16 rows first
// and, for lack of registers, keep them in lanes of vectors.
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
FASTCE_INLINE vec<T> load_pieces(const char *from, std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t) {
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

// Columns [0, quad) of a vector of rows, loaded or stored at the address of the first row. Rows past `last` repeat it
// when loaded, and are not stored.
template <class T> FASTCE_INLINE void load_columns(const char *from, std::ptrdiff_t row_stride,
                                                   std::ptrdiff_t last, vec<T> *columns) {
    if (last + 1 >= int(vec<T>::lanes))  // all rows exist, so no test for each
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

// Alternating pieces of Width lanes from a and b: the even pieces of both, or (Odd) the odd ones.
#if FASTCE_VECTOR_BYTES
template <int Odd, int Width> constexpr int alternating_lane(int lane, int n) {
    return (lane / Width / 2 * 2 + Odd) * Width + lane % Width + (lane / Width % 2 ? n : 0);
}
template <int Odd, int Width, class T, int... Lane>
FASTCE_INLINE vec<T> alternate(vec<T> a, vec<T> b, std::integer_sequence<int, Lane...>) {
    enum { n = vec<T>::lanes };
    return shuffled(a, b, std::integer_sequence<int, alternating_lane<Odd, Width>(Lane, n)...>());
}
template <int Odd, int Width, class T> FASTCE_INLINE vec<T> alternate(vec<T> a, vec<T> b) {
    return alternate<Odd, Width>(a, b, all_lanes<T>());
}
#else
template <int Odd, int Width, class T> FASTCE_INLINE vec<T> alternate(vec<T> a, vec<T>) { return a; }
#endif
// The sums over the lanes of as many vectors as a vector has lanes; that of the first vector is in the first lane.
template <int Width = 1> FASTCE_INLINE vec<double> sums_of_lanes(vec<double> *x) {
    if constexpr (Width < int(vec<double>::lanes)) {
        for (int i = 0; i < int(vec<double>::lanes) / Width / 2; ++i)
            x[i] = alternate<0, Width>(x[2 * i], x[2 * i + 1]) + alternate<1, Width>(x[2 * i], x[2 * i + 1]);
        return sums_of_lanes<2 * Width>(x);
    }
    return x[0];
}
// The sums over halves of vectors: first those of all lower halves, then those of all upper ones.
template <int Width = 1> FASTCE_INLINE vec<double> sums_of_halves(vec<double> *x) {
    if constexpr (2 * Width < int(vec<double>::lanes)) {
        for (int i = 0; i < int(vec<double>::lanes) / Width / 4; ++i)
            x[i] = alternate<0, Width>(x[2 * i], x[2 * i + 1]) + alternate<1, Width>(x[2 * i], x[2 * i + 1]);
        return sums_of_halves<2 * Width>(x);
    }
    return x[0];
}
// Likewise, the maxima over lanes.
template <class T, int Width = 1> FASTCE_INLINE vec<T> maxima_of_lanes(vec<T> *x) {
    if constexpr (Width < int(vec<T>::lanes)) {
        for (int i = 0; i < int(vec<T>::lanes) / Width / 2; ++i)
            x[i] = max(alternate<0, Width>(x[2 * i], x[2 * i + 1]), alternate<1, Width>(x[2 * i], x[2 * i + 1]));
        return maxima_of_lanes<T, 2 * Width>(x);
    }
    return x[0];
}
// The same for sums with their rounding errors, rounded once.
template <int Width = 1> FASTCE_INLINE vec<double> exact_sums_of_lanes(vec<double> *x, vec<double> *error) {
    if constexpr (Width < int(vec<double>::lanes)) {
        for (int i = 0; i < int(vec<double>::lanes) / Width / 2; ++i) {
            const vec<double> a = alternate<0, Width>(x[2 * i], x[2 * i + 1]);
            const vec<double> b = alternate<1, Width>(x[2 * i], x[2 * i + 1]);
            const vec<double> low = alternate<0, Width>(error[2 * i], error[2 * i + 1]) +
                                    alternate<1, Width>(error[2 * i], error[2 * i + 1]);
            const vec<double> sum = a + b, rounded = sum - a;
            error[i] = low + ((a - (sum - rounded)) + (b - rounded));
            x[i] = sum;
        }
        return exact_sums_of_lanes<2 * Width>(x, error);
    }
    return select(equal(x[0] - x[0], vec<double>(0.0)), x[0] + error[0], x[0]);
}
// Lane i of the result is lane index[i] of x.
template <class T> FASTCE_INLINE vec<T> lanes_at(vec<T> x, const std::int32_t *index) {
#if FASTCE_VECTOR_BYTES == 32 && defined(__AVX2__)
    if constexpr (sizeof(T) == 4) {
        return _mm256_permutevar8x32_ps(x.v, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(index)));
    } else {  // each double as two halves: 2 i and 2 i + 1
        const __m256i lane = _mm256_cvtepi32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i *>(index)));
        const __m256i low = _mm256_add_epi32(lane, lane);
        const __m256i both = _mm256_or_si256(low, _mm256_slli_epi64(_mm256_add_epi64(low, _mm256_set1_epi64x(1)), 32));
        return bit_cast<vec<T>>(_mm256_permutevar8x32_epi32(bit_cast<__m256i>(x.v), both));
    }
#elif FASTCE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return _mm512_permutexvar_ps(_mm512_loadu_si512(index), x.v);
    else
        return _mm512_permutexvar_pd(
            _mm512_cvtepi32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(index))), x.v);
#else
    T from[vec<T>::lanes], to[vec<T>::lanes];
    store(from, x);
    for (int lane = 0; lane < vec<T>::lanes; ++lane)
        to[lane] = from[index[lane]];
    return load(static_cast<const T *>(to));
#endif
}

// ------------------------------------------------------------------------- rows of few classes

// K vectors hold rows of K classes one after another, as many rows as a vector has lanes. Column c takes its lanes from
// one vector after another: K - 1 shuffles of two vectors each.
enum { most_interleaved = 8 };
#if FASTCE_VECTOR_BYTES
// Where lane `lane` of column c comes from: from the vector of this turn, or else the lane as it is.
constexpr int column_lane(int lane, int n, int classes, int c, int turn) {
    const int source = lane * classes + c;
    return source / n == turn ? n + source % n : turn == 1 && source / n == 0 ? source : lane;
}
// Likewise for vector m of the rows, from the columns.
constexpr int row_lane(int lane, int n, int classes, int m, int turn) {
    const int source = m * n + lane;
    return source % classes == turn ? n + source / classes
           : turn == 1 && source % classes == 0 ? source / classes : lane;
}
template <bool ToColumns, int K, int C, int Turn, class T, int... I>
FASTCE_INLINE vec<T> take_turn(vec<T> x, const vec<T> *from, std::integer_sequence<int, I...> all) {
    enum { n = vec<T>::lanes };
    if constexpr (Turn < K) {
        x = shuffled(x, from[Turn], std::integer_sequence<int, (ToColumns ? column_lane(I, n, K, C, Turn)
                                                                          : row_lane(I, n, K, C, Turn))...>());
        return take_turn<ToColumns, K, C, Turn + 1>(x, from, all);
    } else {
        return x;
    }
}
template <bool ToColumns, int K, int C, class T>
FASTCE_INLINE void interleave_from(const vec<T> *from, T *to, std::ptrdiff_t apart) {
    if constexpr (C < K) {
        store(to + C * apart, take_turn<ToColumns, K, C, 1>(
            from[0], from, all_lanes<T>()));
        interleave_from<ToColumns, K, C + 1>(from, to, apart);
    }
}
#endif
// Transposes whole vectors of rows of K classes: to columns `apart` elements from each other, or back.
template <bool ToColumns, int K, class T>
FASTCE_INLINE void interleave_rows(const T *from, std::ptrdiff_t from_apart, std::ptrdiff_t rows, T *to,
                                   std::ptrdiff_t to_apart) {
    enum { n = vec<T>::lanes };
    for (std::ptrdiff_t row = 0; row < rows; row += int(n)) {
#if FASTCE_VECTOR_BYTES
        vec<T> x[K];
        for (int k = 0; k < K; ++k)
            x[k] = load(ToColumns ? from + row * K + k * int(n) : from + k * from_apart + row);
        if constexpr (ToColumns)
            interleave_from<true, K, 0>(x, to + row, to_apart);
        else
            interleave_from<false, K, 0>(x, to + row * K, std::ptrdiff_t(n));
#else
        for (int k = 0; k < K; ++k)
            if (ToColumns)
                to[k * to_apart + row] = from[row * K + k];
            else
                to[row * K + k] = from[k * from_apart + row];
#endif
    }
}
template <bool ToColumns, class T>
void interleave_any(const T *from, std::ptrdiff_t from_apart, std::ptrdiff_t rows, std::ptrdiff_t classes, T *to,
                    std::ptrdiff_t to_apart) {
    switch (classes) {
    case 2: return interleave_rows<ToColumns, 2>(from, from_apart, rows, to, to_apart);
    case 3: return interleave_rows<ToColumns, 3>(from, from_apart, rows, to, to_apart);
    case 4: return interleave_rows<ToColumns, 4>(from, from_apart, rows, to, to_apart);
    case 5: return interleave_rows<ToColumns, 5>(from, from_apart, rows, to, to_apart);
    case 6: return interleave_rows<ToColumns, 6>(from, from_apart, rows, to, to_apart);
    case 7: return interleave_rows<ToColumns, 7>(from, from_apart, rows, to, to_apart);
    case 8: return interleave_rows<ToColumns, 8>(from, from_apart, rows, to, to_apart);
    case 1: std::memcpy(to, from, std::size_t(rows) * sizeof(T)); return;
    default: return;  // no class
    }
}
template <class T>
FASTCE_INLINE void rows_to_classes(const T *rows_from, std::ptrdiff_t rows, std::ptrdiff_t classes, T *to,
                                   std::ptrdiff_t apart) {
    interleave_any<true>(rows_from, 0, rows, classes, to, apart);
}
template <class T>
FASTCE_INLINE void classes_to_rows(const T *from, std::ptrdiff_t apart, std::ptrdiff_t rows,
                                   std::ptrdiff_t classes, T *to) {
    interleave_any<false>(from, apart, rows, classes, to, 0);
}

}  // namespace simd
}  // namespace
