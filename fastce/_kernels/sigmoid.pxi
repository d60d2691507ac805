# The sigmoid losses: one driver for all of them.
# Needs sigmoid_formulas.pxi, sigmoid_checks.pxi.
#
# A chunk is processed by several loops, each leaving its results in the first-level cache for the next. In a single
# loop, each vector would go through one long chain of operations. A processor looks a few hundred operations ahead, so
# it could work on only a few vectors at the same time.

cdef enum:
    STRIDE_VECTORS = 8  # vectors summed in the working precision before they are widened


cdef inline vec[real] combined_log1p(vec[real] x, vec[real] y) noexcept nogil:
    # log1p of the result is log1p(x) + log1p(y). In x + y + x y nothing cancels.
    return fma(x, splat(<real> 1) + y, y)


cdef inline bint adds_logarithms_apart(const sigmoid_loss* loss, options kind, real tag) noexcept nogil:
    # If only the sum of the logarithms is wanted, sum_of_log1p computes it. In float64, its rounding errors would show.
    return sigmoid_loss is Bce and options is not General and real is float


cdef double sum_of_log1p(const float* e, Py_ssize_t count) noexcept nogil:
    # Over whole strides, with one logarithm for up to 512 numbers, each at most 1. Numbers are combined in float within
    # a stride, in three steps with one rounding each, then in double.
    cdef int width = lanes(<float> 0), k
    cdef vec[float] x[STRIDE_VECTORS]
    cdef wide_vec[float] wide, product
    cdef vec[double] sum = splat(0.0)
    cdef Py_ssize_t i = 0, stop
    while i < count:
        stop = min_size(count, i + 512 * width)
        for k in range(wide.parts):
            product.part[k] = splat(0.0)
        while i < stop:
            for k in range(STRIDE_VECTORS):
                x[k] = load(e + i + k * width)
            for k in range(STRIDE_VECTORS // 2):
                x[k] = combined_log1p(x[2 * k], x[2 * k + 1])
            for k in range(STRIDE_VECTORS // 4):
                x[k] = combined_log1p(x[2 * k], x[2 * k + 1])
            wide = widen_lanes(combined_log1p(x[0], x[1]))
            for k in range(wide.parts):
                product.part[k] = combined_log1p(product.part[k], wide.part[k])
            i += STRIDE_VECTORS * width
        for k in range(wide.parts):
            sum = sum + log1p(product.part[k])
    return reduce_add(sum)


cdef enum:
    CHUNK_AHEAD = 4096  # bytes from a logit to the one that is prefetched at the same time: a chunk is a page, and
    #                     the processor's own prefetching stops at the end of a page


cdef inline vec[real] log1p_of(vec[real] e, options kind) noexcept nogil:
    # In float64 the square of a number below 1e-154 would underflow, which is slow. For such numbers,
    # which an Ordinary chunk does not contain, log1p(e) is e.
    cdef vec[real] least
    if options is Ordinary or real is float:
        return log1p(e)
    else:
        least = splat(<real> 1e-30)
        return select(less(e, least), e, log1p(max(least, e)))


cdef void exponentials_of_chunk(Chunk* chunk, Py_ssize_t count, const sigmoid_loss* loss, options kind,
                                real tag) noexcept nogil:
    # Computes e = exp(-|z|), and whether this chunk is Ordinary. Prefetches the lines that the next chunk reads and,
    # for BCE, those that this one writes.
    cdef int width = lanes(tag)
    cdef const real* z = <const real*> chunk.z
    cdef const real* y = <const real*> chunk.y
    cdef vec[real] z_i, y_i
    cdef bits_watch[real] targets, logits, between
    cdef Py_ssize_t i = 0, k
    while i < count:  # to the end of a cache line, for which the chunk has room
        prefetch(<const char*> (z + i) + CHUNK_AHEAD)
        prefetch(<const char*> (y + i) + CHUNK_AHEAD)
        if sigmoid_loss is Bce:
            prefetch_to_write(<const char*> (<const real*> chunk.grad + i))
        for k in range(max_size(cache_line // (width * <int> sizeof(real)), 1)):
            z_i = negative_abs(load(z + i))
            y_i = load(y + i)
            targets.see(y_i)
            if options is Ordinary:
                logits.see(z_i)
                if sigmoid_loss is SigmoidFocal:
                    between.see_nonzero(y_i)
                store(<real*> chunk.e + i, normal_exp(z_i))
            else:
                store(<real*> chunk.e + i, exp(z_i))
            i += width
    if options is Ordinary:
        chunk.not_ordinary = (logits.exceeds(smallest_normal_exp(tag) if real is float else <real> -345)
                              or (sigmoid_loss is SigmoidFocal and between.any_nonzero_below(<real> 1)))
    chunk.maybe_bad_target |= targets.exceeds(<real> 1)


cdef void logistic_of_chunk(const Chunk* chunk, Py_ssize_t begin, Py_ssize_t count, const SigmoidFocal* loss,
                            options kind, real tag) noexcept nogil:
    # A division and a logarithm for each e, which is then replaced by r^gamma unless that is r * r. Prefetches the
    # lines that the next loop will write; one loop earlier would be too early.
    cdef const real* e = <const real*> chunk.e
    cdef Py_ssize_t i = begin
    cdef vec[real] e_i, x, smaller
    while i < count:
        e_i = load(e + i)
        prefetch_to_write(<const char*> (<const real*> chunk.grad + i))
        store(<real*> chunk.smaller + i, smaller_sigmoid(e_i))
        store(<real*> chunk.log_term + i, log1p_of(e_i, kind))
        i += lanes(tag)
    if loss.whole_gamma == 2:
        return
    i = begin
    while i < count:
        x = flip_sign(load(<const real*> chunk.z + i), splat(<real> 0.5) - load(<const real*> chunk.y + i))
        smaller = load(<const real*> chunk.smaller + i)
        smaller = select_negative(x, smaller, splat(<real> 1) - smaller)
        store(<real*> chunk.e + i, power_of_sigmoid(smaller, max(-x, splat(<real> 0)),
                                                    load(<const real*> chunk.log_term + i), loss))
        i += lanes(tag)


cdef inline void loss_of_chunk(const Chunk* chunk, Py_ssize_t begin, Py_ssize_t count,
                               const sigmoid_loss* loss, derivatives order, options kind, real tag,
                               wide_sum[real]* sum) noexcept nogil:
    # The elements from `begin`, a multiple of a stride, to `count`.
    cdef int width = lanes(tag)
    cdef const real* z = <const real*> chunk.z
    cdef const real* e = <const real*> chunk.e
    cdef const real* smaller = <const real*> chunk.smaller
    cdef const real* log_terms = <const real*> chunk.log_term
    cdef const real* y = <const real*> chunk.y
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1)
    cdef vec[real] kept = splat(<real> (1.0 - chunk.label_smoothing))
    cdef vec[real] half_smoothing = splat(<real> (0.5 * chunk.label_smoothing))
    cdef vec[real] scale = splat(<real> chunk.scale), total = one
    cdef vec[real] value, grad, hess, z_i, e_i, y_i, opposite, weight, partial, log_term = zero
    cdef vec[real] alpha, one_less_alpha
    cdef mask[real] unused
    cdef Py_ssize_t i = begin, stop, streamed = begin
    # A copy, which no store in the loop can change. Without it, the compiler reads and converts the options again for
    # each vector.
    cdef sigmoid_loss own = loss[0]
    if sigmoid_loss is SigmoidFocal:
        logistic_of_chunk(chunk, begin, count, &own, kind, tag)
    while i < count:
        if derivatives is not ValueOnly:
            if chunk.streamed != NULL:
                streamed = stream(<real*> chunk.streamed, <const real*> chunk.grad, streamed, i, True)
        partial = zero
        stop = min_size(count, i + STRIDE_VECTORS * width)
        while i < stop:
            z_i = load(z + i)
            y_i = load(y + i)
            opposite = one - y_i
            if options is not Ordinary:
                y_i = fma(y_i, kept, half_smoothing)
                opposite = fma(opposite, kept, half_smoothing)
            if sigmoid_loss is Bce:
                e_i = load(e + i)
                if options is General:
                    y_i = y_i * load(<const real*> chunk.positive_weight + i)
                    if chunk.has_positive_weight:  # else 1, from which a sum of rounded targets may differ
                        total = y_i + opposite
                if not adds_logarithms_apart(loss, kind, tag):
                    log_term = log1p_of(e_i, kind)
                value = bce(z_i, e_i, log_term, y_i, opposite, total, partial, &grad, &hess, kind)
            else:
                alpha = splat(<real> own.alpha_positive)
                one_less_alpha = splat(<real> own.alpha_negative)
                if options is General:  # one number per element, or ones
                    alpha = alpha * load(<const real*> chunk.positive_weight + i)
                    one_less_alpha = one_less_alpha * load(<const real*> chunk.negative_weight + i)
                value = sigmoid_focal(z_i, load(smaller + i), load(log_terms + i), e + i, y_i, opposite, &own,
                                      alpha, one_less_alpha, partial, &grad, &hess, kind)
            if options is General:
                # A selection, not a product: an element of weight 0 does not count even if it is NaN.
                weight = load(<const real*> chunk.weight + i)
                unused = equal(weight, zero)
                value = zero_where(unused, weight * value)
                weight = load(<const real*> chunk.factor + i) * (weight * scale)
                grad = zero_where(unused, weight * grad)
                hess = zero_where(unused, weight * hess)
                if chunk.has_values:
                    store(<real*> chunk.e + i, value)
                sum.add(value)  # with weights of both signs, partial sums in float32 would cancel
            else:
                partial = value
                grad = scale * grad
                hess = scale * hess
            if derivatives is WithHessian:
                store(<real*> chunk.hess + i, hess)
            if derivatives is not ValueOnly:
                store(<real*> chunk.grad + i, grad)
            i += width
        if options is not General:
            sum.add(partial)
    if derivatives is not ValueOnly:
        if chunk.streamed != NULL:
            stream(<real*> chunk.streamed, <const real*> chunk.grad, streamed, count, False)


cdef bint run_elements(const Elements* arrays, const sigmoid_loss* loss, Py_ssize_t start,
                       Py_ssize_t stop, derivatives order, real tag, double* total) noexcept nogil:
    # Computes the elements [start, stop), where start is a multiple of ELEMENTS, and adds their weighted losses to the
    # total in a fixed order. Returns whether a target may lie outside [0, 1].
    cdef double memory[9 * BUFFER]
    cdef Py_ssize_t first = start, count, whole, size = chunk_elements(tag)
    cdef bint streams = arrays.streams, maybe_bad_target = False
    cdef bint plain = (arrays.positive_weight.data == NULL and arrays.sample_weight.data == NULL
                       and arrays.mask.data == NULL and arrays.grad_output.data == NULL
                       and arrays.loss.data == NULL)
    cdef bint smooth = arrays.label_smoothing != 0.0
    cdef Chunk chunk
    cdef Ordinary is_ordinary_chunk
    cdef Plain is_plain_chunk
    cdef General is_general_chunk
    cdef wide_sum[real] sum
    memset(&chunk, 0, sizeof(chunk))
    chunk.label_smoothing = arrays.label_smoothing
    chunk.scale = arrays.scale
    chunk.e = place(memory, 2, tag)
    chunk.smaller = place(memory, 3, tag)
    chunk.log_term = place(memory, 4, tag)
    chunk.has_values = arrays.loss.data != NULL
    chunk.has_positive_weight = arrays.positive_weight.data != NULL
    while first < stop:
        count = min_size(size, stop - first)
        chunk.z = read_numbers(&arrays.logits, first, count, place(memory, 0, tag))
        chunk.y = read_numbers(&arrays.target, first, count, place(memory, 1, tag))
        chunk.grad = place(memory, 0, tag)
        chunk.hess = place(memory, 1, tag)
        chunk.streamed = NULL
        if count == size:
            if derivatives is not ValueOnly:
                if is_of(&arrays.grad, tag):
                    if streams:
                        chunk.streamed = <real*> arrays.grad.data + first
                    else:
                        chunk.grad = <real*> arrays.grad.data + first
            if derivatives is WithHessian:
                if is_of(&arrays.hess, tag) and not streams:
                    chunk.hess = <real*> arrays.hess.data + first
        chunk.maybe_bad_target = False
        if not chunk.not_ordinary:
            exponentials_of_chunk(&chunk, count, loss, is_ordinary_chunk, tag)
        if chunk.not_ordinary:  # computes its exponentials again; later chunks are not expected to be Ordinary
            exponentials_of_chunk(&chunk, count, loss, is_plain_chunk, tag)
        if chunk.maybe_bad_target and not maybe_bad_target:
            maybe_bad_target = any_outside(used_targets(arrays, first, count, <const real*> chunk.y,
                                                        place(memory, 7, tag), place(memory, 8, tag)), count, <real> 1)
            chunk.weight = NULL
        whole = 0
        if plain:
            # Whole strides; the rest of a short chunk ends within a vector.
            whole = count - count % (STRIDE_VECTORS * lanes(tag))
            if chunk.not_ordinary or smooth:
                loss_of_chunk(&chunk, 0, whole, loss, order, is_plain_chunk, tag, &sum)
            else:
                loss_of_chunk(&chunk, 0, whole, loss, order, is_ordinary_chunk, tag, &sum)
            if adds_logarithms_apart(loss, is_plain_chunk, tag):
                total[0] += sum_of_log1p(<const float*> chunk.e, whole)
        if whole < count:
            options_of_chunk(arrays, first, whole, count, &chunk, memory, tag)
            loss_of_chunk(&chunk, whole, count, loss, order, is_general_chunk, tag, &sum)
            if chunk.has_values:
                write_numbers(&arrays.loss, first, count, <const real*> chunk.e, streams)
        if derivatives is not ValueOnly:
            if chunk.grad == place(memory, 0, tag) and chunk.streamed == NULL:
                write_numbers(&arrays.grad, first, count, <const real*> chunk.grad, streams)
        if derivatives is WithHessian:
            if chunk.hess == place(memory, 1, tag):
                write_numbers(&arrays.hess, first, count, <const real*> chunk.hess, streams)
        first += count
    if streams:
        end_streams()
    total[0] += sum.total()
    return maybe_bad_target
