# Vector passes over contiguous numbers in the first-level cache.
# Needs dispatch.pxi, conversion.pxi.

cdef double LARGEST_FLOAT = 3.4028234663852886e38
cdef double LARGEST_DOUBLE = 1.7976931348623157e308


cdef inline bint are_in_safe_range(real minimum, real maximum) noexcept nogil:
    # If the extremes over several rows are in exp's safe range, so are those of each row. False if all logits are NaN:
    # then the minimum is above the maximum.
    return safe_range_lowest(maximum) <= minimum <= maximum <= safe_range_highest(maximum)


cdef inline vec[real] load_rest(const real* x, Py_ssize_t count, real fill) noexcept nogil:
    # A vector or, at the end, the numbers that are left, padded with `fill`.
    return load(x) if count >= lanes(fill) else load_first(x, count, fill)


cdef inline void store_rest(real* to, Py_ssize_t count, vec[real] x) noexcept nogil:
    if count >= lanes(<real> 0):
        store(to, x)
    else:
        store_first(to, count, x)


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
    # The part of a factor of exponentials that is applied first if the whole factor is not a normal number: a power of
    # two. If the factor is too small, exponentials whose products are normal numbers are large, and stay normal numbers
    # after this part. If it is too large, exponentials whose products are finite are small, and stay finite.
    cdef double raising = 1.0 / inverse_exp_scale(tag), largest = 0.5 / smallest_factor(tag)
    if fabs(factor) < smallest_factor(tag):
        return inverse_exp_scale(tag)
    if fabs(factor) > largest:
        return raising if fabs(factor) * inverse_exp_scale(tag) < largest else 0.5 * raising * raising
    return 1.0


cdef void multiply_in_parts(real* e, double factor, double unit, Py_ssize_t count) noexcept nogil:
    # Multiplies by factor * unit. For float64 rows, that product may not be a normal number even as a double, but its
    # parts are, and so are the intermediate results that matter.
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
    #   Error   of tanh: float 1.61 ULP with AVX2, otherwise 1.55 (python -m tools.exhaustive --only tanh);
    #           double 1.5 ULP (pytest tests/kernels/test_elementary.py)
    #   Source  fdlibm (Sun Microsystems, 1993), s_tanh.c
    # For |x| >= 0.55, tanh is 1 - 2 e / (1 + e). Below that the difference cancels, so a polynomial is used.
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
    # Whether scaling makes a finite logit infinite in float32. Such logits are computed in double. With a softcap an
    # infinite product does no harm: its cap is right.
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
    # Sets u to softcap tanh(logit_scale z / softcap), and slope to du/dz. Infinite logits are scaled but not capped,
    # because -inf masks a class. Whole vectors are written: the buffers are padded.
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
    # Turns derivatives with respect to u into derivatives with respect to the logit z, with u' = slope and u'' = -2
    # logit_scale / softcap tanh slope. hess may be NULL; like u it has room for a whole vector at the end.
    cdef vec[real] one = splat(<real> 1), g, s_i, tanh
    cdef vec[real] inverse_cap = splat(<real> (1.0 / batch.softcap))
    cdef vec[real] bend = splat(<real> (-2.0 * batch.logit_scale / batch.softcap))
    cdef Py_ssize_t i = 0
    while i < count:
        g = load_rest(<const real*> grad + i, count - i, <real> 0)
        s_i = load(slope + i)
        if hess:
            tanh = max(-one, min(load(u + i) * inverse_cap, one))
            store(hess + i, load(<const real*> hess + i) * s_i * s_i + g * (bend * tanh * s_i))
        store_rest(grad + i, count - i, g * s_i)
        i += lanes(<real> 0)
