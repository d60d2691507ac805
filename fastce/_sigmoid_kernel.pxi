# The sigmoid family: one vector function a loss, one driver for all of them.
#
# With e = exp(-|z|): sigma(|z|) = 1 / (1 + e), sigma(-|z|) = e / (1 + e), and
# softplus(z) = max(z, 0) + log1p(e). No 1 - p is formed, nothing overflows.

cdef struct Bce:
    double unused


cdef struct SigmoidFocal:
    double gamma
    double alpha_positive  # alpha, or 1 for None
    double alpha_negative  # 1 - alpha, or 1


ctypedef fused sigmoid_loss:
    Bce
    SigmoidFocal


# How many derivatives: a type each, so that what is not asked for is not compiled into the loop.
cdef struct ValueOnly:
    char unused


cdef struct WithGradient:
    char unused


cdef struct WithHessian:
    char unused


ctypedef fused derivatives:
    ValueOnly
    WithGradient
    WithHessian


cdef struct Elements:
    const char* logits
    int logits_storage
    const char* target
    int target_storage
    const void* pos_weight        # working precision, one an element, or NULL
    const void* sample_weight     # working precision, one an element, or NULL
    const char* mask              # one byte an element, or NULL
    const void* grad_output       # working precision, one an element, or NULL
    double label_smoothing
    double scale
    char* loss                    # working precision, or NULL
    char* grad
    int grad_storage
    char* hess
    int hess_storage


cdef inline vec[real] logistic(vec[real] z, vec[real]* p, vec[real]* q, vec[real]* above,
                               vec[real]* below) noexcept nogil:
    # p = sigma(z), q = sigma(-z), above = max(z, 0), below = max(-z, 0); returns log1p(exp(-|z|)),
    # so that softplus(z) is above plus it, and softplus(-z) is below plus it.
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1)
    cdef vec[real] e = exp(-abs(z))
    cdef vec[real] larger = one / (one + e)
    cdef vec[real] smaller = e * larger
    cdef mask[real] negative = less(z, zero)
    p[0] = select(negative, smaller, larger)
    q[0] = select(negative, larger, smaller)
    above[0] = max(z, zero)
    below[0] = max(-z, zero)
    return log1p(e)


cdef inline vec[real] bce(vec[real] z, vec[real] y, vec[real] opposite, vec[real] pos_weight,
                          vec[real]* grad, vec[real]* hess) noexcept nogil:
    # pos_weight y softplus(-z) + opposite softplus(z), opposite = 1 - y. Only one of max(z, 0) and max(-z, 0) is not 0;
    # keep: a side of weight 0 has no loss at +-inf.
    cdef vec[real] p, q, above, below, zero = splat(<real> 0)
    cdef vec[real] positive = pos_weight * y, negative = opposite
    cdef vec[real] log_term = logistic(z, &p, &q, &above, &below)
    grad[0] = negative * p - positive * q
    hess[0] = (negative + positive) * (p * q)
    cdef vec[real] wrong_side = select(less(z, zero), positive, negative)
    return keep(less(zero, wrong_side), wrong_side * abs(z)) + (positive + negative) * log_term


cdef inline vec[real] power_of_sigmoid(vec[real] above, vec[real] log_term, vec[real] q,
                                       double gamma) noexcept nogil:
    # q^gamma for q = sigma(-x), from -log q = softplus(x) = above + log_term. The rounding errors of
    # the sum and of the product with gamma would be multiplied by their size (a relative error of
    # 90 ULP at x = 90): they are carried into the exponential.
    cdef vec[real] g, sum, low, high
    if gamma == 0.0:
        return splat(<real> 1) + (q - q)
    if gamma == 1.0:
        return q
    if gamma == 2.0:
        return q * q
    g = splat(<real> gamma)
    sum = above + log_term
    low = g * (log_term - (sum - above))
    high = g * sum
    low = low + product_error(g, sum, high)
    return exp_less(-high, keep(less(high, splat(<real> 1e4)), low))


cdef inline vec[real] sigmoid_focal(vec[real] z, vec[real] y, vec[real] opposite,
                                    const SigmoidFocal* loss, vec[real]* grad,
                                    vec[real]* hess) noexcept nogil:
    # f = a r^gamma b with b = BCE, r = 1 - p_t = p (1 - y) + q y, a = alpha_t:
    #     f'  = a r^gamma (gamma rho b + b'),         rho = r' / r,  r' = p q (1 - 2 y)
    #     f'' = a r^gamma (gamma rho b ((gamma - 1) rho + q - p) + 2 gamma rho b' + p q)
    # For hard targets r is p or q itself, and rho is 1 - r with the sign of 1 - 2 y: no division.
    cdef vec[real] one = splat(<real> 1), zero = splat(<real> 0), g = splat(<real> loss.gamma)
    cdef vec[real] p, q, above, below, log_term, r, rho, rho_b, b, slope, power, weight
    cdef mask[real] positive = less(splat(<real> 0.5), y), soft = less(zero, y * opposite)
    log_term = logistic(z, &p, &q, &above, &below)
    r = select(positive, q, p)
    rho = select(positive, -p, q)
    b = select(positive, below, above) + log_term
    slope = select(positive, -q, p)
    power = power_of_sigmoid(select(positive, above, below), log_term, r, loss.gamma)
    if any(soft):
        r = select(soft, p * opposite + q * y, r)
        rho = select(soft, p * q * (opposite - y) / r, rho)
        b = select(soft, y * (below + log_term) + opposite * (above + log_term), b)
        slope = select(soft, opposite * p - y * q, slope)
        power = select(soft, exp(g * log(r)), power)
    weight = (y * splat(<real> loss.alpha_positive) + opposite * splat(<real> loss.alpha_negative)) * power
    rho_b = select(equal(rho, zero), zero, rho * b)  # not 0 * inf
    grad[0] = weight * (g * rho_b + slope)
    hess[0] = weight * (g * rho_b * ((g - one) * rho + (q - p)) + (g + g) * rho * slope + p * q)
    return select(equal(weight, zero), zero, weight * b)


cdef enum:
    ELEMENTS = 1024  # a chunk: its five buffers of float32 fit the first-level cache


cdef inline const real* element_chunk(const char* source, int storage, Py_ssize_t count,
                                      real* buffer) noexcept nogil:
    # In place, or converted; a short chunk is copied and padded with zeros to whole vectors.
    cdef Py_ssize_t i
    if storage <= FLOAT64 and count == ELEMENTS:
        return <const real*> source
    widen(source, storage, buffer, count)
    for i in range(count, min_size(count + 16, ELEMENTS + 16)):
        buffer[i] = 0
    return buffer


cdef inline const real* argument_chunk(const void* argument, Py_ssize_t first, Py_ssize_t count,
                                       real* buffer) noexcept nogil:
    if argument == NULL:
        return NULL
    return element_chunk(<const char*> (<const real*> argument + first), FLOAT32, count, buffer)


cdef inline const real* weight_chunk(const Elements* arrays, Py_ssize_t first, Py_ssize_t count,
                                     real* buffer) noexcept nogil:
    # Sample weight, 0 where masked; NULL where neither is given.
    cdef const real* weight = argument_chunk(arrays.sample_weight, first, count, buffer)
    cdef Py_ssize_t i
    if arrays.mask == NULL:
        return weight
    for i in range(count):
        buffer[i] = (read(weight + i) if weight else <real> 1) if arrays.mask[first + i] else <real> 0
    for i in range(count, min_size(count + 16, ELEMENTS + 16)):
        buffer[i] = 0
    return buffer


cdef inline const real* factor_chunk(const Elements* arrays, const real* weight, Py_ssize_t first,
                                     Py_ssize_t count, real* buffer) noexcept nogil:
    # What each gradient is multiplied by; NULL where it is `scale` for all.
    cdef const real* grad_output = argument_chunk(arrays.grad_output, first, count, buffer)
    cdef real factor, scale = <real> arrays.scale
    cdef Py_ssize_t i
    if weight == NULL and grad_output == NULL:
        return NULL
    for i in range(count):
        factor = (read(weight + i) if weight else <real> 1)
        buffer[i] = 0 if factor == 0 else factor * scale * (read(grad_output + i) if grad_output else <real> 1)
    for i in range(count, min_size(count + 16, ELEMENTS + 16)):
        buffer[i] = 0
    return buffer


cdef inline vec[real] first_lanes_of(vec[real] x, Py_ssize_t count) noexcept nogil:
    cdef real lane[16]
    store(&lane[0], x)
    return load_first(<const real*> &lane[0], count, <real> 0)


cdef void run_elements(const Elements* arrays, const sigmoid_loss* loss, Py_ssize_t start,
                       Py_ssize_t stop_element, derivatives order, real tag,
                       double* total) noexcept nogil:
    # The elements from `start`, a multiple of ELEMENTS. Adds the weighted losses up in fixed order.
    cdef real buffers[6][ELEMENTS + 16]
    cdef Py_ssize_t first = start, count, i
    cdef int width = lanes(tag)
    cdef const real* z
    cdef const real* y
    cdef const real* w
    cdef const real* factor
    cdef const real* pos_weight
    cdef real* value_to
    cdef real* grad_to
    cdef real* hess_to
    cdef vec[real] value, grad, hess, y_i, w_i, factor_i, opposite_i
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1)
    cdef vec[real] pos_weight_i = splat(<real> 1)
    cdef vec[real] keep_target = splat(<real> (1.0 - arrays.label_smoothing))
    cdef vec[real] half_smoothing = splat(<real> (0.5 * arrays.label_smoothing))
    cdef vec[real] partial
    cdef wide_sum[real] sum
    cdef Py_ssize_t logits_size = storage_size(arrays.logits_storage)
    cdef Py_ssize_t target_size = storage_size(arrays.target_storage)
    cdef Py_ssize_t grad_size = storage_size(arrays.grad_storage)
    cdef Py_ssize_t hess_size = storage_size(arrays.hess_storage)
    cdef Py_ssize_t stop
    cdef bint smoothed = arrays.label_smoothing != 0.0
    while first < stop_element:
        count = min_size(ELEMENTS, stop_element - first)
        z = element_chunk(arrays.logits + first * logits_size, arrays.logits_storage, count, &buffers[0][0])
        y = element_chunk(arrays.target + first * target_size, arrays.target_storage, count, &buffers[1][0])
        pos_weight = argument_chunk(arrays.pos_weight, first, count, &buffers[2][0])
        w = weight_chunk(arrays, first, count, &buffers[3][0])
        factor = factor_chunk(arrays, w, first, count, &buffers[4][0])
        value_to = <real*> arrays.loss + first if arrays.loss else NULL
        grad_to = &buffers[0][0]
        hess_to = &buffers[1][0]
        if count == ELEMENTS:
            if derivatives is not ValueOnly:
                if arrays.grad_storage <= FLOAT64:
                    grad_to = <real*> arrays.grad + first
            if derivatives is WithHessian:
                if arrays.hess_storage <= FLOAT64:
                    hess_to = <real*> arrays.hess + first
        if count < ELEMENTS and value_to:
            value_to = &buffers[5][0]
        i = 0
        while i < count:
            partial = zero
            stop = min_size(count, i + STRIDE_VECTORS * width)
            while i < stop:
                y_i = load(y + i)
                opposite_i = one - y_i
                if smoothed:
                    y_i = y_i * keep_target + half_smoothing
                    opposite_i = opposite_i * keep_target + half_smoothing
                if sigmoid_loss is Bce:
                    if pos_weight:
                        pos_weight_i = load(pos_weight + i)
                    value = bce(load(z + i), y_i, opposite_i, pos_weight_i, &grad, &hess)
                else:
                    value = sigmoid_focal(load(z + i), y_i, opposite_i, loss, &grad, &hess)
                if w:
                    w_i = load(w + i)
                    value = keep(less(zero, w_i), w_i * value)
                if value_to:
                    store(value_to + i, value)
                if i + width > count:  # the lanes past the end, whatever they hold, are not summed
                    value = first_lanes_of(value, count - i)
                partial = partial + value
                if derivatives is not ValueOnly:
                    if factor:
                        factor_i = load(factor + i)
                        if w:
                            grad = keep(less(zero, w_i), grad)
                            hess = keep(less(zero, w_i), hess)
                    else:
                        factor_i = splat(<real> arrays.scale)
                    if derivatives is WithHessian:
                        store(hess_to + i, factor_i * hess)
                    store(grad_to + i, factor_i * grad)
                i += width
            sum.add(partial)
        if value_to == &buffers[5][0]:
            memcpy(<real*> arrays.loss + first, value_to, count * sizeof(real))
        if derivatives is not ValueOnly:
            if grad_to == &buffers[0][0]:
                narrow(grad_to, arrays.grad + first * grad_size, arrays.grad_storage, count)
        if derivatives is WithHessian:
            if hess_to == &buffers[1][0]:
                narrow(hess_to, arrays.hess + first * hess_size, arrays.hess_storage, count)
        first += count
    total[0] += sum.total()


cdef Py_ssize_t first_outside(const char* target, int storage, Py_ssize_t count,
                              real tag) noexcept nogil:
    # The position of the first number outside [0, 1], NaN included, or -1.
    cdef real buffer[ELEMENTS + 16]
    cdef const real* y
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1), y_i, outside
    cdef Py_ssize_t first = 0, i, chunk
    cdef int width = lanes(tag)
    while first < count:
        chunk = min_size(ELEMENTS, count - first)
        y = element_chunk(target + first * storage_size(storage), storage, chunk, &buffer[0])
        outside = zero
        i = 0
        while i < chunk:
            y_i = load(y + i)
            outside = max(outside, select(at_most(zero, y_i) & at_most(y_i, one), zero, one))
            i += width
        if reduce_max(outside) > 0:
            for i in range(chunk):
                if not 0 <= read(y + i) <= 1:
                    return first + i
        first += chunk
    return -1
