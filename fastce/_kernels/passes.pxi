# Vector passes over contiguous numbers that are in the first-level cache.

cdef enum:
    CHUNK = 2048        # elements: 8 KB of float32 logits beside 8 KB of gradient
    CHUNK_STRIDES = 256  # strides of STRIDE_VECTORS in a chunk at most: of vectors of one lane
    STRIDE_VECTORS = 8  # vectors that are added up in the working precision before they are widened:
    #                     64 cost 4.9 ULP at 32 classes


# What is known of the logits of a chunk: a type each, so that a loop does not ask at each vector.
cdef struct Moderate:
    # Their exponentials are normal numbers as they are: nothing is taken from them.
    char unused


cdef struct AllNormal:
    # None is so far below the maximum that its raised exponential is too small for a normal number.
    char unused


cdef struct AnySize:
    char unused


ctypedef fused sizes:
    Moderate
    AllNormal
    AnySize


cdef inline bint are_moderate(real minimum, real maximum) noexcept nogil:
    # Where the extremes of several rows together are moderate, each row's are. False for logits without a
    # finite one, whose minimum lies above their maximum.
    return smallest_moderate(maximum) <= minimum <= maximum <= largest_moderate(maximum)


cdef inline bint all_normal_below(real minimum, real maximum) noexcept nogil:
    return minimum - maximum >= smallest_normal_raised_exp(maximum)


cdef real maximum_of(const real* u, Py_ssize_t count, real* maxima, real* minimum) noexcept nogil:
    # -inf for none; NaN is no maximum here, and no minimum, and is found by the exponentials. `maxima` gets
    # the maximum of each stride of STRIDE_VECTORS whole vectors, lane by lane.
    cdef int width = lanes(<real> 0)
    cdef vec[real] a = splat(<real> -INFINITY), b = a, c = a, even, odd
    cdef vec[real] even_minimum = splat(<real> INFINITY), odd_minimum = even_minimum
    cdef Py_ssize_t i = 0, k
    while i + STRIDE_VECTORS * width <= count:
        a = b = splat(<real> -INFINITY)
        for k in range(0, STRIDE_VECTORS, 2):
            even = load(u + i + k * width)
            odd = load(u + i + (k + 1) * width)
            a = max(even, a)
            b = max(odd, b)
            even_minimum = min(even, even_minimum)
            odd_minimum = min(odd, odd_minimum)
        a = max(b, a)
        store(maxima, a)
        maxima += width
        c = max(a, c)
        i += STRIDE_VECTORS * width
    while i + width <= count:
        even = load(u + i)
        c = max(even, c)
        even_minimum = min(even, even_minimum)
        i += width
    if i < count:
        even = load_first(u + i, count - i, read(u + i))
        c = max(even, c)
        even_minimum = min(even, even_minimum)
    minimum[0] = -reduce_max(-min(even_minimum, odd_minimum))
    return reduce_max(c)


cdef inline vec[real] sized_exp(vec[real] u, vec[real] m, sizes size) noexcept nogil:
    # moderate_unit exp(u) of moderate logits, of others 2^raised exp(u - m).
    if sizes is Moderate:
        return moderate_exp(u)
    elif sizes is AllNormal:
        return normal_raised_exp(u - m)
    else:
        return raised_exp(u - m)


# No inline function: among all else that a row needs, the loop has too few registers.
cdef void exponentials(const real* u, Py_ssize_t count, real* e, real* maxima, real* sums, real* minimum,
                       real* maximum, const Ahead* ahead, sizes size) noexcept nogil:
    # e_j as sized_exp has it; e may be u. `sums` gets the sum of each stride, lane by lane, and behind them
    # the vectors of the rest. Of moderate logits, as which any may be tried, the extremes are found meanwhile
    # and `maxima` filled: a loop for them alone waits for the memory and gives it nothing to do while this
    # one calculates (with AVX2 1024 x 32000 took 0.70 ns an element with it, and 0.52 without, 8192 x 1000
    # 0.72 and 0.58). Otherwise `maximum` is given.
    cdef int width = lanes(<real> 0)
    cdef vec[real] m = splat(maximum[0]), zero = splat(<real> 0), even, odd, u_i, u_k, y
    cdef vec[real] highest = splat(<real> -INFINITY), lowest = splat(<real> INFINITY), stride_highest
    cdef Py_ssize_t i = 0, k
    while i + STRIDE_VECTORS * width <= count:
        fetch_elements(ahead, i, i + STRIDE_VECTORS * width)
        even = zero  # two sums, for half as many roundings in each
        odd = zero
        if sizes is Moderate:
            stride_highest = splat(<real> -INFINITY)
        for k in range(0, STRIDE_VECTORS, 2):
            u_i = load(u + i + k * width)
            u_k = load(u + i + (k + 1) * width)
            y = sized_exp(u_i, m, size)
            store(e + i + k * width, y)
            even = even + y
            y = sized_exp(u_k, m, size)
            store(e + i + (k + 1) * width, y)
            odd = odd + y
            if sizes is Moderate:  # in one register each: with two for either the loop has too few
                stride_highest = max(u_k, max(u_i, stride_highest))
                lowest = min(u_k, min(u_i, lowest))
        store(sums, even + odd)
        sums += width
        if sizes is Moderate:
            store(maxima, stride_highest)
            maxima += width
            highest = max(stride_highest, highest)
        i += STRIDE_VECTORS * width
    fetch_elements(ahead, i, count)
    while i + width <= count:
        u_i = load(u + i)
        y = sized_exp(u_i, m, size)
        store(e + i, y)
        store(sums, y)
        sums += width
        if sizes is Moderate:
            highest = max(u_i, highest)
            lowest = min(u_i, lowest)
        i += width
    if i < count:
        u_i = load_first(u + i, count - i, <real> -INFINITY)
        if sizes is Moderate:
            u_k = load_first(u + i, count - i, read(u + i))
            y = drop(equal(u_i, splat(<real> -INFINITY)), moderate_exp(u_k))
            highest = max(u_k, highest)
            lowest = min(u_k, lowest)
        else:
            y = raised_exp(u_i - m)
        store_first(e + i, count - i, y)
        store(sums, y)
    if sizes is Moderate:
        minimum[0] = -reduce_max(-lowest)
        maximum[0] = reduce_max(highest)


cdef double sum_but_one(const real* e, Py_ssize_t count, const real* maxima, const real* sums,
                        real maximum, vec[real] top) noexcept nogil:
    # The sum of a chunk's exponentials less one for a maximum, whose exponential is `top`. Those that equal
    # it are counted, not added, so that a small tail beside them keeps its digits. Only lanes that hold a
    # maximum, as `maxima` tells of each stride, are looked at (what else rounds to the same may be added):
    # they are left out of the sum, and added at the end. A branch at each stride would be shorter, but no
    # predictor foresees the one that is taken, and what it throws away includes loads that are under way.
    cdef int width = lanes(<real> 0)
    cdef vec[real] m = splat(maximum), zero = splat(<real> 0), one = splat(<real> 1), even, odd, y
    cdef mask[real] tied
    cdef wide_sum[real] total, ties
    cdef Py_ssize_t strides = count // (STRIDE_VECTORS * width), i, k
    cdef Py_ssize_t rest = (count - strides * STRIDE_VECTORS * width + width - 1) // width
    cdef int tied_strides = 0
    cdef short again[CHUNK_STRIDES]
    for i in range(strides):
        tied = equal(load(maxima + i * width), m)
        total.add(drop(tied, load(sums + i * width)))
        again[tied_strides] = <short> i
        tied_strides += any(tied)
    even = zero
    odd = zero
    for i in range(strides, strides + rest):
        y = load(sums + i * width)
        tied = equal(y, top)
        even = add_unless(tied, even, y)
        odd = add_where(tied, odd, one)
    total.add(even)
    ties.add(odd)
    while tied_strides > 0:
        tied_strides -= 1
        i = again[tied_strides]
        even = zero
        odd = zero
        for k in range(STRIDE_VECTORS):
            y = load(e + (i * STRIDE_VECTORS + k) * width)
            tied = equal(y, top)
            even = add_unless(tied, even, y)
            odd = add_where(tied, odd, one)
        # In the other lanes, what equals the top has been added before.
        tied = equal(load(maxima + i * width), m)
        total.add(keep(tied, even))
        ties.add(keep(tied, odd))
    return total.total() + (ties.total() - 1.0) * <double> top[0]


cdef double others_of_infinity(const real* u, Py_ssize_t count) noexcept nogil:
    # What `exponentials` would return if infinity less itself were 0.
    cdef Py_ssize_t i
    cdef double others = -1.0
    for i in range(count):
        if read(u + i) != read(u + i):
            return NAN
        others += read(u + i) == <real> INFINITY
    return others


cdef inline vec[real] soft_distance_of(vec[real] t, vec[real] u, vec[real] m) noexcept nogil:
    # t (m - u), with 0 * inf = 0.
    return keep(less(splat(<real> 0), abs(t)), t * (m - u))


cdef void soft_sums(const real* t, const real* u, Py_ssize_t count, real maximum,
                    double* mass, double* distance) noexcept nogil:
    # sum t_j and sum t_j (maximum - u_j).
    cdef int width = lanes(<real> 0)
    cdef vec[real] m = splat(maximum), zero = splat(<real> 0)
    cdef vec[real] t_j, t_k, masses, distances
    cdef wide_sum[real] all_masses, all_distances
    cdef Py_ssize_t i = 0, stop
    while i < count:
        stop = min_size(count, i + STRIDE_VECTORS * width)
        masses = zero
        distances = zero
        while i + 2 * width <= stop:  # in pairs, for half as many roundings
            t_j = load(t + i)
            t_k = load(t + i + width)
            masses = masses + (t_j + t_k)
            distances = distances + (soft_distance_of(t_j, load(u + i), m)
                                     + soft_distance_of(t_k, load(u + i + width), m))
            i += 2 * width
        if i + width <= stop:
            t_j = load(t + i)
            masses = masses + t_j
            distances = distances + soft_distance_of(t_j, load(u + i), m)
            i += width
        if i < stop:
            t_j = load_first(t + i, stop - i, <real> 0)
            masses = masses + t_j
            distances = distances + soft_distance_of(t_j, load_first(u + i, stop - i, <real> 0), m)
            i = stop
        all_masses.add(masses)
        all_distances.add(distances)
    mass[0] = all_masses.total()
    distance[0] = all_distances.total()


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
    cdef double raising = 1.0 / lowering(tag), largest = 0.5 / smallest_factor(tag)
    if fabs(factor) < smallest_factor(tag):
        return lowering(tag)
    if fabs(factor) > largest:
        return raising if fabs(factor) * lowering(tag) < largest else 0.5 * raising * raising
    return 1.0


cdef void scale(const real* e, double plain, double relative, double unit, real* to,
                Py_ssize_t count) noexcept nogil:
    # to = plain relative e / unit: the factor of a float64 row may be no normal number as a double either,
    # though its parts are, and those of its products that count.
    cdef double first = first_factor(plain * relative / unit, <real> 0)
    if first != 1.0 and plain != 0.0:
        multiply(e, <real> first, to, count)
        multiply(<const real*> to, <real> (plain / (first * unit) * relative), to, count)
    else:
        multiply(e, <real> (plain * relative / unit), to, count)


cdef void relative_to_top(const real* e, double relative, double unit, vec[real] top, real* to,
                          Py_ssize_t count) noexcept nogil:
    # to = relative e / unit, but exactly 1 where e is the top.
    cdef int width = lanes(<real> 0)
    cdef Py_ssize_t i = 0
    cdef vec[real] one = splat(<real> 1)
    scale(e, 1.0, relative, unit, to, count)
    while i + width <= count:
        store(to + i, select(equal(load(e + i), top), one, load(to + i)))
        i += width
    for i in range(i, count):
        if read(e + i) == top[0]:
            to[i] = 1


cdef inline vec[real] soft_gradient(vec[real] e, vec[real] t, vec[real] pull, vec[real] others,
                                    vec[real] scale) noexcept nogil:
    return scale * ((pull - t) * e - t * (others + (splat(<real> 1) - e)))


cdef inline vec[real] hessian(vec[real] e, vec[real] others, vec[real] product,
                              vec[real] square) noexcept nogil:
    return e * (product * (others + (splat(<real> 1) - e)) + square * e)


cdef void soft_gradient_pass(const real* e, const real* t, Py_ssize_t count, vec[real] pull,
                             vec[real] others, vec[real] scale, real* to) noexcept nogil:
    # `e` has room for whole vectors.
    cdef int width = lanes(<real> 0)
    cdef Py_ssize_t i = 0
    while i + width <= count:
        store(to + i, soft_gradient(load(e + i), load(t + i), pull, others, scale))
        i += width
    if i < count:
        store_first(to + i, count - i, soft_gradient(load(e + i), load_first(t + i, count - i, <real> 0),
                                                     pull, others, scale))


cdef void hessian_pass(const real* e, Py_ssize_t count, vec[real] others, vec[real] product,
                       vec[real] square, real* to) noexcept nogil:
    # `e` and `to` have room for whole vectors.
    cdef Py_ssize_t i = 0
    while i < count:
        store(to + i, hessian(load(e + i), others, product, square))
        i += lanes(<real> 0)


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
    # For |x| >= 0.55 the tanh is 1 - 2 e / (1 + e) with e = exp(-2|x|); below, where that cancels, a polynomial.
    # Its slope is 4 e / (1 + e)^2. Worst error of the tanh 1.7 ULP.
    cdef vec[real] one = splat(<real> 1), four = splat(<real> 4), magnitude = abs(x)
    cdef vec[real] e = exp(-(magnitude + magnitude))
    cdef vec[real] inverse = one / (one + e)
    slope[0] = (four * e) * (inverse * inverse)
    return flip_sign(select(less(magnitude, splat(<real> 0.55)), tanh_near_zero(magnitude),
                            one - (e + e) * inverse), x)


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


cdef void cap(real* z, real* slope, Py_ssize_t count, double logit_scale, double softcap) noexcept nogil:
    # z becomes u = softcap tanh(logit_scale z / softcap), in place, and slope du/dz. Infinite logits are scaled, not
    # capped: -inf is how classes are masked. `count` is rounded up to whole vectors: buffers are padded.
    cdef vec[real] factor = splat(<real> (logit_scale / softcap)), top = splat(<real> softcap), x, slope_i
    cdef vec[real] outer = splat(<real> logit_scale), infinity = splat(<real> INFINITY)
    cdef Py_ssize_t i = 0
    while i < count:
        x = load(<const real*> z + i)
        store(z + i, select(less(abs(x), infinity), top * tanh_and_slope(x * factor, &slope_i), x * factor))
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


cdef inline Py_ssize_t min_size(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a < b else b
