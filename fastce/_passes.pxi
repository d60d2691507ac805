# Vector passes over contiguous numbers that are in the first-level cache.

cdef enum:
    STRIDE_VECTORS = 8  # vectors that are added up in the working precision before they are widened:
    #                     64 cost 4.9 ULP at 32 classes


cdef inline real maximum_of(const real* u, Py_ssize_t count, real* maxima) noexcept nogil:
    # -inf for none; NaN is passed over here and found by the exponentials. `maxima` gets the
    # maximum of each stride of STRIDE_VECTORS whole vectors, lane by lane.
    cdef int width = lanes(<real> 0)
    cdef vec[real] a = splat(<real> -INFINITY), b = a, c = a
    cdef Py_ssize_t i = 0, k
    while i + STRIDE_VECTORS * width <= count:
        a = max(load(u + i), load(u + i + width))
        b = max(load(u + i + 2 * width), load(u + i + 3 * width))
        a = max(load(u + i + 4 * width), max(load(u + i + 5 * width), a))
        b = max(load(u + i + 6 * width), max(load(u + i + 7 * width), b))
        a = max(a, b)
        store(maxima, a)
        maxima += width
        c = max(a, c)
        i += STRIDE_VECTORS * width
    while i + width <= count:
        c = max(load(u + i), c)
        i += width
    if i < count:
        c = max(load_first(u + i, count - i, <real> -INFINITY), c)
    return reduce_max(c)


cdef inline double exponentials(const real* u, Py_ssize_t count, real maximum, const real* maxima,
                                real* e, const Ahead* ahead) noexcept nogil:
    # e_j = 2^raised exp(u_j - maximum), stored unless e is NULL. Returns the sum of the exp less one
    # for a maximum. Elements equal to the maximum are counted, not added, so that a small tail
    # beside them keeps its digits; a stride that has none of them, as `maxima` tells, is only added.
    cdef int width = lanes(<real> 0)
    cdef vec[real] m = splat(maximum), zero = splat(<real> 0), one = splat(<real> 1)
    cdef vec[real] x, y, tail, odd, ties
    cdef mask[real] is_maximum
    cdef wide_sum[real] total, tied
    cdef Py_ssize_t i = 0, stop
    while i < count:
        stop = i + STRIDE_VECTORS * width
        fetch_elements(ahead, i, stop)
        tail = zero
        if stop <= count and not any(equal(load(maxima), m)):
            odd = zero  # two sums, for half as many roundings in each
            while i < stop:
                y = raised_exp(load(u + i) - m)
                x = raised_exp(load(u + i + width) - m)
                if e:
                    store(e + i, y)
                    store(e + i + width, x)
                tail = tail + y
                odd = odd + x
                i += 2 * width
            tail = tail + odd
        else:
            stop = min_size(stop, count)
            ties = zero
            while i + width <= stop:
                x = load(u + i)
                y = raised_exp(x - m)
                if e:
                    store(e + i, y)
                is_maximum = equal(x, m)
                tail = tail + drop(is_maximum, y)
                ties = ties + keep(is_maximum, one)
                i += width
            if i < stop:
                x = load_first(u + i, stop - i, <real> -INFINITY)
                y = raised_exp(x - m)
                if e:
                    store_first(e + i, stop - i, y)
                is_maximum = equal(x, m)
                tail = tail + drop(is_maximum, y)
                ties = ties + keep(is_maximum, one)
                i = stop
            tied.add(ties)
        total.add(tail)
        maxima += width
    return (tied.total() - 1.0) + total.total() * lowering(maximum)


cdef inline vec[real] soft_distance_of(vec[real] t, vec[real] u, vec[real] m) noexcept nogil:
    # t (m - u), with 0 * inf = 0.
    return keep(less(splat(<real> 0), abs(t)), t * (m - u))


cdef inline void soft_sums(const real* t, const real* u, Py_ssize_t count, real maximum,
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


cdef inline void multiply(const real* e, real factor, real* to, Py_ssize_t count) noexcept nogil:
    cdef int width = lanes(factor)
    cdef vec[real] a = splat(factor)
    cdef Py_ssize_t i = 0
    while i + width <= count:
        store(to + i, load(e + i) * a)
        i += width
    if i < count:
        store_first(to + i, count - i, load_first(e + i, count - i, <real> 0) * a)


cdef inline bint lowers_first(double factor, real tag) noexcept nogil:
    # Whether a factor cannot also lower raised exponentials, for it would be subnormal.
    return 0.0 < fabs(factor) < smallest_lowering(tag)


cdef inline void lower_and_scale(const real* e, double factor, real* to, Py_ssize_t count) noexcept nogil:
    # to = factor * exp from raised exponentials.
    if lowers_first(factor, <real> 0):
        multiply(e, <real> lowering(<real> 0), to, count)
        multiply(<const real*> to, <real> factor, to, count)
    else:
        multiply(e, <real> (factor * lowering(<real> 0)), to, count)


cdef inline vec[real] soft_gradient(vec[real] e, vec[real] t, vec[real] pull, vec[real] others,
                                    vec[real] scale) noexcept nogil:
    return scale * ((pull - t) * e - t * (others + (splat(<real> 1) - e)))


cdef inline vec[real] hessian(vec[real] e, vec[real] others, vec[real] product,
                              vec[real] square) noexcept nogil:
    return e * (product * (others + (splat(<real> 1) - e)) + square * e)


cdef inline void soft_gradient_pass(const real* e, real rescale, const real* t, Py_ssize_t count,
                                    vec[real] pull, vec[real] others, vec[real] scale,
                                    real* to) noexcept nogil:
    cdef int width = lanes(rescale)
    cdef vec[real] factor = splat(rescale)
    cdef Py_ssize_t i = 0
    while i + width <= count:
        store(to + i, soft_gradient(load(e + i) * factor, load(t + i), pull, others, scale))
        i += width
    if i < count:
        store_first(to + i, count - i, soft_gradient(
            load_first(e + i, count - i, <real> 0) * factor, load_first(t + i, count - i, <real> 0),
            pull, others, scale))


cdef inline void hessian_pass(const real* e, real rescale, Py_ssize_t count, vec[real] others,
                              vec[real] product, vec[real] square, real* to) noexcept nogil:
    # `e` and `to` have room for whole vectors.
    cdef vec[real] factor = splat(rescale)
    cdef Py_ssize_t i = 0
    while i < count:
        store(to + i, hessian(load(e + i) * factor, others, product, square))
        i += lanes(rescale)


cdef inline vec[real] tanh_of(vec[real] x) noexcept nogil:
    # For |x| >= 0.55, 1 - 2 e / (1 + e) with e = exp(-2|x|); below, where that cancels, the Taylor
    # continued fraction x / (1 + x^2 / (3 + x^2 / (5 + x^2 / (7 + x^2 / (9 + ...))))), 10 terms.
    # Worst error 1.6 ULP.
    cdef vec[real] one = splat(<real> 1), two = splat(<real> 2), magnitude = abs(x)
    cdef vec[real] e = exp(-(magnitude + magnitude))
    cdef vec[real] large = one - two * e / (one + e)
    cdef vec[real] square = x * x
    cdef vec[real] fraction = splat(<real> 19)
    cdef int k
    for k in range(17, 0, -2):
        fraction = splat(<real> k) + square / fraction
    large = select(less(x, splat(<real> 0)), -large, large)
    return select(less(magnitude, splat(<real> 0.55)), x / fraction, large)


cdef inline void transform(real* z, Py_ssize_t count, double logit_scale, double softcap) noexcept nogil:
    # z becomes u, in place: logit_scale z, or softcap tanh(logit_scale z / softcap).
    # `count` is rounded up to whole vectors: buffers are padded.
    cdef int width = lanes(<real> 0)
    cdef vec[real] factor, cap, infinity
    cdef Py_ssize_t i
    if softcap == 0.0:
        factor = splat(<real> logit_scale)
        i = 0
        while i < count:
            store(z + i, load(z + i) * factor)
            i += width
    else:
        factor = splat(<real> (logit_scale / softcap))
        cap = splat(<real> softcap)
        infinity = splat(<real> INFINITY)
        i = 0
        while i < count:
            # Infinite logits stay so: -inf is how classes are masked.
            store(z + i, select(less(abs(load(z + i)), infinity), cap * tanh_of(load(z + i) * factor),
                                load(z + i)))
            i += width


cdef inline void chain_rule(const real* z, Py_ssize_t count, double logit_scale, double softcap,
                            real* grad, real* hess) noexcept nogil:
    # From derivatives by u to derivatives by z: u' = logit_scale (1 - tanh^2),
    # u'' = -2 logit_scale / softcap tanh u'. 1 - tanh(x)^2 = 4 e / (1 + e)^2 with e = exp(-2|x|).
    # A derivative that is 0 stays 0. grad or hess may be NULL.
    cdef int width = lanes(<real> 0)
    cdef vec[real] one = splat(<real> 1), four = splat(<real> 4)
    cdef vec[real] x, e, slope, first
    cdef vec[real] factor = splat(<real> logit_scale)
    cdef vec[real] inner = splat(<real> (logit_scale / softcap if softcap else 0.0))
    cdef vec[real] bend = splat(<real> (-2.0 * logit_scale / softcap if softcap else 0.0))
    cdef Py_ssize_t i
    i = 0
    while i < count:
        slope = factor
        if softcap != 0.0:
            x = load(z + i) * inner
            e = exp(-(abs(x) + abs(x)))
            slope = factor * (four * e / ((one + e) * (one + e)))
        first = load(grad + i)
        if hess:
            e = load(hess + i) * slope * slope
            if softcap != 0.0:
                e = e + first * (bend * tanh_of(x) * slope)
            store(hess + i, e)
        store(grad + i, first * slope)
        i += width


cdef inline Py_ssize_t min_size(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a < b else b
