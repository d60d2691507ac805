# Second derivatives for boosted trees.
# Needs passes.pxi, entries.pxi.

def raise_to_floor(cnp.ndarray hess, cnp.ndarray grad, double factor, double floor, double least):
    """Multiply a Hessian by the factor, and raise it to at least max(floor·|grad|, least), in place.

    Both arrays are contiguous, in one memory order, and of one type, float32 or float64.
    """
    parts_of(partial(raise_part, hess, grad, factor, floor, least), cnp.PyArray_SIZE(hess), 1, 1)


def raise_part(cnp.ndarray hess, cnp.ndarray grad, double factor, double floor, double least, Py_ssize_t start,
               Py_ssize_t stop):
    cdef bint is_double = cnp.PyArray_ITEMSIZE(hess) == 8
    cdef void* h = cnp.PyArray_DATA(hess)
    cdef const void* g = cnp.PyArray_DATA(grad)
    with nogil:
        if is_double:
            raise_numbers(<double*> h + start, <const double*> g + start, stop - start, factor, floor, least)
        else:
            raise_numbers(<float*> h + start, <const float*> g + start, stop - start, <float> factor, <float> floor,
                          <float> least)


cdef void raise_numbers(real* hess, const real* grad, Py_ssize_t count, real factor, real floor,
                        real least) noexcept nogil:
    cdef DefaultEnvironment environment
    cdef vec[real] at_least = splat(least), x
    cdef Py_ssize_t i = 0
    environment.enter()
    while i < count:
        if floor > 0:  # infinity times 0 would be NaN
            x = load_rest(grad + i, count - i, <real> 0)
            at_least = max(splat(least), abs(x) * splat(floor))
        x = load_rest(<const real*> hess + i, count - i, <real> 0)
        store_rest(hess + i, count - i, max(at_least, x * splat(factor)))  # NaN remains NaN
        i += lanes(floor)
