# Elementary functions, for their tests.
# Needs passes.pxi, arrays.pxi.

def elementary(str name, cnp.ndarray x, double gamma=1.0):
    """Return one of the functions named below of a contiguous float32 or float64 array.

    `gamma` is the exponent of `power_of_fraction`, which takes only float64.
    """
    cdef cnp.ndarray result = np.empty_like(x)
    cdef Py_ssize_t count = cnp.PyArray_SIZE(x)
    cdef int function = ("exp", "log1p", "log", "tanh", "exp_in_safe_range", "expm1", "expm1_rest",
                         "rough_exp_in_safe_range", "log_of_quotient", "power_of_fraction").index(name)
    if storage_of(x) == FLOAT64:
        apply(function, <const double*> cnp.PyArray_DATA(x), <double*> cnp.PyArray_DATA(result), count, gamma)
    else:
        apply(function, <const float*> cnp.PyArray_DATA(x), <float*> cnp.PyArray_DATA(result), count, gamma)
    return result


cdef void apply(int function, const real* x, real* to, Py_ssize_t count, double gamma) noexcept nogil:
    cdef DefaultEnvironment environment
    cdef vec[real] x_i
    cdef vec[double] pivot, k, numerator, denominator
    cdef Py_ssize_t i = 0, lane_count
    environment.enter()
    while i < count:
        lane_count = min_size(lanes(<real> 0), count - i)
        if lane_count < lanes(<real> 0):
            x_i = load_first(x + i, lane_count, <real> 0)
        else:
            x_i = load(x + i)
        if function == 0:
            x_i = exp(x_i)
        elif function == 1:
            x_i = log1p(x_i)
        elif function == 2:
            x_i = log(x_i)
        elif function == 3:
            x_i = tanh_of(x_i)
        elif function == 4:
            x_i = exp_in_safe_range(x_i)
        elif function == 5:
            x_i = expm1(x_i)
        elif function == 6:
            expm1_with_rest(x_i, &x_i)
        elif function == 7:
            x_i = rough_exp_in_safe_range(x_i)
        elif real is double:
            if function == 8:  # log(1 + x) again, with a pivot that is not a power of two
                pivot = splat(0.7)
                k = quotient_parts(x_i * pivot, pivot, pivot + x_i * pivot, &numerator, &denominator)
                x_i = log_of_quotient(numerator / denominator, k)
            else:
                x_i = power_of_fraction(x_i, gamma)
        if lane_count < lanes(<real> 0):
            store_first(to + i, lane_count, x_i)
        else:
            store(to + i, x_i)
        i += lane_count
