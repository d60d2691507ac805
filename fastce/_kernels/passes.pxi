# Vector passes over contiguous numbers that are in the first-level cache.
# Needs dispatch.pxi, conversion.pxi.

cdef double LARGEST_FLOAT = 3.4e38


cdef inline bint are_in_safe_range(real minimum, real maximum) noexcept nogil:
    # Where the extremes of several rows together are in exp's safe range, each row's are. False for logits without a
    # finite one, whose minimum lies above their maximum.
    return safe_range_lowest(maximum) <= minimum <= maximum <= safe_range_highest(maximum)


cdef inline vec[real] load_rest(const real* x, Py_ssize_t count, real fill) noexcept nogil:
    # A vector, or the numbers that are left, with as many others as it takes.
    return load(x) if count >= lanes(fill) else load_first(x, count, fill)


cdef void multiply(const real* e, real factor, real* to, Py_ssize_t count) noexcept nogil:
    cdef int width = lanes(factor)
    cdef vec[real] a = splat(factor)
    cdef Py_ssize_t i = 0
    while i + width <= count:
        store(to + i, load(e + i) * a)
        i += width
    if i < count:
        store_first(to + i, count - i, load_first(e + i, count - i, <real> 0) * a)


cdef inline double first_factor(double factor, real tag) noexcept nogil:
    # The part of a factor of exponentials that goes first, where the whole is no normal number: a power of
    # two. Exponentials of which a factor too small for one still makes normal numbers are large enough for
    # the part, and those of which a large one makes finite numbers are small enough.
    cdef double raising = 1.0 / inverse_exp_scale(tag), largest = 0.5 / smallest_factor(tag)
    if fabs(factor) < smallest_factor(tag):
        return inverse_exp_scale(tag)
    if fabs(factor) > largest:
        return raising if fabs(factor) * inverse_exp_scale(tag) < largest else 0.5 * raising * raising
    return 1.0


cdef void multiply_in_parts(real* e, double factor, double unit, Py_ssize_t count) noexcept nogil:
    # By factor * unit. Of a float64 row that may be no normal number as a double either, though its parts are,
    # and those of its products that count.
    cdef double first = first_factor(factor * unit, <real> 0)
    multiply(<const real*> e, <real> first, e, count)
    multiply(<const real*> e, <real> (factor / first * unit), e, count)


cdef inline vec[real] tanh_near_zero(vec[real] x) noexcept nogil:
    # x + x^3 P(x^2) for 0 <= x < 0.55 (tools/polynomials.py).
    cdef vec[real] s = x * x, p
    if real is float:
        p = fma(splat(<real> -0.0066040930), s, splat(<real> 0.0213061222))
        p = fma(p, s, splat(<real> -0.0539088957))
        p = fma(p, s, splat(<real> 0.1333311102))
        p = fma(p, s, splat(<real> -0.3333333199))
    else:
        p = fma(splat(<real> -0.000020560722179445962413), s, splat(<real> 0.00008505253402854645129))
        p = fma(p, s, splat(<real> -0.0002345977114631154152))
        p = fma(p, s, splat(<real> 0.00058892356167795995735))
        p = fma(p, s, splat(<real> -0.0014556592923508646882))
        p = fma(p, s, splat(<real> 0.0035921100607293591929))
        p = fma(p, s, splat(<real> -0.0088632343736616411254))
        p = fma(p, s, splat(<real> 0.021869488492618092726))
        p = fma(p, s, splat(<real> -0.05396825396741100927))
        p = fma(p, s, splat(<real> 0.13333333333332695376))
        p = fma(p, s, splat(<real> -0.33333333333333332534))
    return fma(x * s, p, x)


cdef inline vec[real] tanh_and_slope(vec[real] x, vec[real]* slope) noexcept nogil:
    # tanh(x), and its slope 4 e / (1 + e)^2 with e = exp(-2|x|).
    #   Lanes   float, double
    #   Range   all numbers; NaN passes through
    #   Error   of the tanh: float 1.61 ULP with AVX2, 1.55 else (python -m tools.exhaustive --only tanh);
    #           double 1.5 ULP (pytest tests/kernels/test_elementary.py)
    #   Source  fdlibm (Sun Microsystems, 1993), s_tanh.c
    # For |x| >= 0.55 the tanh is 1 - 2 e / (1 + e); below, where that cancels, a polynomial.
    cdef vec[real] one = splat(<real> 1), four = splat(<real> 4), magnitude = abs(x)
    cdef vec[real] e = exp(-(magnitude + magnitude))
    cdef vec[real] inverse = one / (one + e)
    slope[0] = (four * e) * (inverse * inverse)
    return flip_sign(select(less(magnitude, splat(<real> 0.55)), tanh_near_zero(magnitude),
                            subtract_product(one, e + e, inverse)), x)


cdef inline vec[real] tanh_of(vec[real] x) noexcept nogil:
    cdef vec[real] slope
    return tanh_and_slope(x, &slope)


cdef bint scale_overflows(const char* logits, int storage, Py_ssize_t count, double logit_scale,
                          double softcap) noexcept nogil:
    # Whether a finite logit becomes infinite in float32 by its scale: such logits are computed in double. The
    # cap of an infinite product is right.
    cdef float buffer[CHUNK]
    cdef vec[float] limit = splat(<float> (LARGEST_FLOAT / fabs(logit_scale) if logit_scale else INFINITY))
    cdef vec[float] infinity = splat(<float> INFINITY), x
    cdef mask[float] found = less(infinity, infinity)
    cdef Py_ssize_t first = 0, i, chunk, width = lanes(<float> 0)
    if storage == FLOAT64 or storage == FLOAT16 or fabs(logit_scale) <= 1.0 or softcap != 0.0:
        return False
    while first < count:
        chunk = min_size(CHUNK, count - first)
        widen(logits + first * storage_size(storage), storage, buffer, chunk)
        i = 0
        while i < chunk:
            x = abs(load(<const float*> buffer + i) if i + width <= chunk
                    else load_first(<const float*> buffer + i, chunk - i, <float> 0))
            found = found | (less(limit, x) & less(x, infinity))
            i += width
        first += chunk
    return any(found)


cdef void cap(const real* z, real* u, real* slope, Py_ssize_t count, double logit_scale,
              double softcap) noexcept nogil:
    # u = softcap tanh(logit_scale z / softcap), and slope du/dz. Infinite logits are scaled, not capped: -inf is how
    # classes are masked. Whole vectors are written.
    cdef vec[real] factor = splat(<real> (logit_scale / softcap)), top = splat(<real> softcap), x, slope_i
    cdef vec[real] outer = splat(<real> logit_scale), infinity = splat(<real> INFINITY)
    cdef Py_ssize_t i = 0
    while i < count:
        x = load_rest(z + i, count - i, <real> 0)
        store(u + i, select(less(abs(x), infinity), top * tanh_and_slope(x * factor, &slope_i), x * factor))
        store(slope + i, outer * slope_i)
        i += lanes(<real> 0)


cdef void chain_rule(const Batch* batch, const real* u, const real* slope, Py_ssize_t count, real* grad,
                     real* hess) noexcept nogil:
    # From derivatives with respect to u to those with respect to z, of a capped logit: u' = slope,
    # u'' = -2 logit_scale / softcap tanh slope. hess may be NULL.
    cdef vec[real] one = splat(<real> 1), g, s_i, tanh
    cdef vec[real] inverse_cap = splat(<real> (1.0 / batch.softcap))
    cdef vec[real] bend = splat(<real> (-2.0 * batch.logit_scale / batch.softcap))
    cdef Py_ssize_t i = 0
    while i < count:
        g = load(<const real*> grad + i)
        s_i = load(slope + i)
        if hess:
            tanh = max(-one, min(load(u + i) * inverse_cap, one))
            store(hess + i, load(<const real*> hess + i) * s_i * s_i + g * (bend * tanh * s_i))
        store(grad + i, g * s_i)
        i += lanes(<real> 0)
