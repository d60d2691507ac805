"""Declarations of simd.hpp for the kernels; the headers document each function."""

cdef extern from "simd.hpp" namespace "simd" nogil:
    cdef cppclass mask[T]:
        mask operator&(mask)
        mask operator|(mask)

    cdef cppclass vec[T]:
        vec operator-()
        vec operator+(vec)
        vec operator-(vec)
        vec operator*(vec)
        vec operator/(vec)
        T operator[](Py_ssize_t)

    cdef cppclass wide_vec[T]:
        vec[double]* part
        int parts

    cdef cppclass wide_sum[T]:
        wide_sum()
        void add(vec[T])
        void pause(double*, double*)
        void resume(const double*, const double*)
        wide_vec[T] lanes()
        wide_vec[T] low_lanes()
        double total()
        vec[double] rounded_sum()     # only for double
        vec[double] rounding_error()

    cdef cppclass bits_watch[T]:
        bits_watch()
        void see(vec[T])
        bint exceeds(T)
        void see_nonzero(vec[T])
        bint any_nonzero_below(T)

    cdef cppclass DefaultEnvironment:
        DefaultEnvironment()
        void enter()

    cdef cppclass half:
        pass

    cdef cppclass bfloat16:
        pass

    int lanes[T](T)
    vec[T] splat[T](T)
    mask[T] equal[T](vec[T], vec[T])
    mask[T] less[T](vec[T], vec[T])
    mask[T] at_most[T](vec[T], vec[T])
    vec[T] select[T](mask[T], vec[T], vec[T])
    vec[T] zero_unless[T](mask[T], vec[T])
    vec[T] select_negative[T](vec[T], vec[T], vec[T])
    vec[T] flip_sign[T](vec[T], vec[T])
    vec[T] zero_where[T](mask[T], vec[T])
    vec[T] add_where[T](mask[T], vec[T], vec[T])
    bint any[T](mask[T])
    unsigned long long lane_bits[T](mask[T])
    int lowest_bit(unsigned long long)
    vec[T] max[T](vec[T], vec[T])
    vec[T] min[T](vec[T], vec[T])
    vec[T] abs[T](vec[T])
    vec[T] max_magnitude[T](vec[T], vec[T])
    vec[T] lower_if_negative[T](vec[T], vec[T])
    vec[T] negative_abs[T](vec[T])
    vec[T] fma[T](vec[T], vec[T], vec[T])
    vec[T] fmsub[T](vec[T], vec[T], vec[T])             # a * b - c
    vec[T] subtract_product[T](vec[T], vec[T], vec[T])  # c - a * b, given c, a, b

    vec[T] load[T](const T*)
    vec[T] load_once[T](const T*)
    vec[T] load_first[T](const T*, Py_ssize_t, T)
    void store[T](T*, vec[T])
    void store_first[T](T*, Py_ssize_t, vec[T])
    T read[T](const T*)
    void write[T](T*, T)
    wide_vec[T] widen_lanes[T](vec[T])
    vec[T] narrow_lanes[T](wide_vec[T])
    vec[double] folded(vec[float])
    vec[double] folded_twice(vec[float], vec[float])
    void store_wide[T](double*, wide_vec[T])
    void store_widened[T](double*, vec[T])
    vec[T] load_narrowed[T](const double*, T)
    vec[T] load_integers[T](const unsigned long long*, bint, T)
    T reduce_max[T](vec[T])
    double reduce_add[T](vec[T])
    int quad[T](T)
    void load_columns[T](const char*, Py_ssize_t, Py_ssize_t, vec[T]*)
    void store_columns[T](char*, Py_ssize_t, Py_ssize_t, vec[T]*)
    vec[double] sums_of_lanes(vec[double]*)
    vec[double] sums_of_halves(vec[double]*)
    vec[double] exact_sums_of_lanes(vec[double]*, vec[double]*)
    vec[T] maxima_of_lanes[T](vec[T]*)
    vec[T] lanes_at[T](vec[T], const int*)
    enum: most_interleaved
    void rows_to_classes[T](const T*, Py_ssize_t, Py_ssize_t, T*, Py_ssize_t)
    void classes_to_rows[T](const T*, Py_ssize_t, Py_ssize_t, Py_ssize_t, T*)
    mask[T] load_mask[T](const unsigned char*, T)
    T next_above[T](T)
    vec[double] inverse_power(vec[double])
    enum: cache_line
    void prefetch(const void*)
    void prefetch_to_write(const void*)
    Py_ssize_t stream[T](T*, const T*, Py_ssize_t, Py_ssize_t, bint)
    void end_streams()

    vec[T] exp[T](vec[T])
    vec[T] normal_exp[T](vec[T])
    vec[T] expm1[T](vec[T])
    vec[T] expm1_with_rest[T](vec[T], vec[T]*)
    cppclass reduced[T]:
        pass
    reduced[T] reduce_exponent[T](vec[T])
    vec[T] expm1_of_reduced[T](reduced[T], vec[T]*)
    T smallest_normal_exp[T](T)
    vec[T] exp_in_safe_range[T](vec[T])
    vec[T] rough_exp_in_safe_range[T](vec[T])
    double safe_range_unit[T](T)
    T safe_range_lowest[T](T)
    T safe_range_highest[T](T)
    vec[T] raised_exp[T](vec[T])
    double inverse_exp_scale[T](T)
    double smallest_factor[T](T)
    vec[T] exp_less "simd::exp" [T](vec[T], vec[T])
    vec[T] log1p[T](vec[T])
    vec[T] log[T](vec[T])
    vec[double] sqrt(vec[double])
    vec[double] quotient_parts(vec[double], vec[double], vec[double], vec[double]*, vec[double]*)
    vec[double] log_of_quotient(vec[double], vec[double])
    vec[double] power_of_fraction(vec[double], double)
    vec[T] product_error[T](vec[T], vec[T], vec[T])

    vec[float] load_half "simd::load" (const half*)
    vec[float] load_bfloat16 "simd::load" (const bfloat16*)
    void store_half "simd::store" (half*, vec[float])
    void store_bfloat16 "simd::store" (bfloat16*, vec[float])
