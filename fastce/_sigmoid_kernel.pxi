# The sigmoid family: one vector function a loss, one driver for all of them.
#
# With e = exp(-|z|): sigma(|z|) = 1 / (1 + e), sigma(-|z|) = e / (1 + e), and
# softplus(z) = max(z, 0) + log1p(e). No 1 - p is formed, nothing overflows.
#
# A chunk goes through in several loops, with what one makes for the next in the first-level cache. In one
# loop a vector takes a chain of about 100 cycles, and a processor that looks some hundred operations ahead
# starts few others meanwhile: focal loss takes 30 cycles for 8 lanes then (AVX2 on Zen 3), 20.3 in two loops,
# and 19.2 in three.

cdef enum:
    STRIDE_VECTORS = 8  # vectors that are added up in the working precision before they are widened


cdef struct Bce:
    double unused


cdef struct SigmoidFocal:
    double gamma
    double alpha_positive  # alpha, or 1 for None
    double alpha_negative  # 1 - alpha, or 1
    int whole_gamma        # 0, 1 or 2 where gamma is that, else -1


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


# What a loop over a chunk does not have to look after: a type each, too. All give the same bits.
cdef struct Ordinary:
    # Logits whose exponentials are normal numbers, in float64 their squares, too; targets of 0 and 1 where
    # the loss cares; no options.
    char unused


cdef struct Plain:
    # No options but label smoothing.
    char unused


cdef struct General:
    # Any options, and single losses; what is not given is ones in a buffer.
    char unused


ctypedef fused options:
    Ordinary
    Plain
    General


cdef struct Elements:
    Numbers logits
    Numbers target
    Numbers positive_weight   # pos_weight or alpha
    Numbers negative_weight   # 1 - alpha
    Numbers sample_weight
    Numbers mask
    Numbers grad_output
    Numbers loss
    Numbers grad
    Numbers hess
    double label_smoothing
    double scale
    bint streams              # whether outputs go past the caches


cdef inline vec[real] smaller_sigmoid(vec[real] e) noexcept nogil:
    # sigma(-|z|) of e = exp(-|z|).
    return e / (splat(<real> 1) + e)


cdef inline bint adds_logarithms_apart(const sigmoid_loss* loss, options kind, real tag) noexcept nogil:
    # Where only their sum is asked for, sum_of_log1p has it. In float64 its rounding errors would show.
    return sigmoid_loss is Bce and options is not General and real is float


cdef inline vec[real] both(vec[real] x, vec[real] y) noexcept nogil:
    # log1p of the result is log1p(x) + log1p(y), and in x + y + x y nothing cancels.
    return fma(x, splat(<real> 1) + y, y)


cdef double sum_of_log1p(const float* e, Py_ssize_t count) noexcept nogil:
    # Over whole strides, with a logarithm for up to 512 numbers, each of them at most 1: in float for a
    # stride, by pairs of pairs, for three roundings in a row, then in double. With AVX2 on Zen 3 BCE takes
    # 11.6 cycles for 8 numbers so, and 17.1 with as many logarithms.
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
                x[k] = both(x[2 * k], x[2 * k + 1])
            for k in range(STRIDE_VECTORS // 4):
                x[k] = both(x[2 * k], x[2 * k + 1])
            wide = widen_lanes(both(x[0], x[1]))
            for k in range(wide.parts):
                product.part[k] = both(product.part[k], wide.part[k])
            i += STRIDE_VECTORS * width
        for k in range(wide.parts):
            sum = sum + log1p(product.part[k])
    return reduce_add(sum)


cdef inline vec[real] bce(vec[real] z, vec[real] e, vec[real] log_term, vec[real] positive,
                          vec[real] negative, vec[real] total, vec[real] sum, vec[real]* grad,
                          vec[real]* hess, options kind) noexcept nogil:
    # positive softplus(-z) + negative softplus(z), with positive = pos_weight y, negative = 1 - y and
    # total their sum. The side that z is on the wrong side of has |z| more of loss. The gradient is
    # total sigma(z) - positive; with sigma(|z|) = 1 - sigma(-|z|) it becomes the one difference below
    # for either sign of z, in which nothing is lost where the prediction is right (wrong = 0).
    # A side of weight 0 has no loss at +-inf. Returned is the loss, or where nothing has to be done with it
    # the sum with it, without its logarithm where that is added apart.
    cdef vec[real] smaller = smaller_sigmoid(e), distance = abs(z)
    cdef vec[real] wrong = select_negative(z, positive, negative)
    grad[0] = flip_sign(wrong - smaller if options is not General else less_product(wrong, total, smaller), z)
    hess[0] = total * ((splat(<real> 1) - smaller) * smaller)
    if options is not Ordinary:
        distance = keep(less(splat(<real> 0), wrong), distance)
    if options is General:
        return product_less(wrong, distance, -(total * log_term))  # a sum; no loss is -0.0
    else:
        return fma(wrong, distance, sum if real is float else sum + log_term)


cdef inline vec[real] power_of_sigmoid(vec[real] q, vec[real] above, vec[real] log_term,
                                       const SigmoidFocal* loss) noexcept nogil:
    # q^gamma for q = sigma(-x), from -log q = softplus(x) = above + log_term. The rounding errors of
    # the sum and of the product with gamma would be multiplied by their size (a relative error of
    # 90 ULP at x = 90): they are carried into the exponential.
    cdef vec[real] g, sum, low, high
    if loss.whole_gamma == 1:
        return q
    if loss.whole_gamma == 0:
        return splat(<real> 1) + (q - q)  # NaN stays
    g = splat(<real> loss.gamma)
    sum = above + log_term
    low = g * (log_term - (sum - above))
    high = g * sum
    low = low + product_error(g, sum, high)
    return exp_less(-high, keep(less(high, splat(<real> 1e4)), low))


cdef inline vec[real] sigmoid_focal(vec[real] z, vec[real] smaller, vec[real] log_term,
                                    const real* power, vec[real] y, vec[real] opposite,
                                    const SigmoidFocal* loss, vec[real] alpha, vec[real] one_less_alpha,
                                    vec[real] sum, vec[real]* grad,
                                    vec[real]* hess, options kind) noexcept nogil:
    # With x = -z for y = 1 and z for y = 0: r = sigma(x) is 1 - p_t, p = sigma(-x) is p_t,
    # b = softplus(x) is -log p_t, and by x
    #     f   = a r^gamma b
    #     f'  = a r^gamma (r + gamma p b)
    #     f'' = a p r^gamma ((1 + 2 gamma) r + gamma b (gamma p - r))
    # where a = alpha_t. Lanes with targets between 0 and 1 are replaced. Given are smaller = sigma(-|z|) and
    # log_term = log1p(e). Returned is the loss, or the sum with it, as above.
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1), g = splat(<real> loss.gamma)
    cdef vec[real] larger = one - smaller
    cdef vec[real] sign = splat(<real> 0.5) - y  # negative where y = 1
    cdef vec[real] x, r, p, b, p_b, weight, soft_grad, soft_hess
    cdef vec[real] value = zero if options is General else sum
    cdef mask[real] soft
    grad[0] = hess[0] = zero
    if options is Ordinary or any(at_most(y, zero) | at_most(one, y)):
        x = flip_sign(z, sign)
        r = select_negative(x, smaller, larger)
        p = select_negative(x, larger, smaller)
        b = max(x, zero) + log_term
        weight = select_negative(sign, alpha, one_less_alpha)
        weight = weight * (r * r if loss.whole_gamma == 2 else load(power))
        p_b = p * b
        if options is not Ordinary:  # not 0 * inf
            p_b = select(equal(p, zero), p, p_b)
            b = drop(equal(weight, zero), b)
        grad[0] = flip_sign(weight * fma(g, p_b, r), sign)
        hess[0] = weight * fma(one + g + g, r * p, g * less_product(g * p * p_b, r, p_b))
        value = weight * b if options is General else fma(weight, b, sum)
        if options is Ordinary:
            return value
    soft = less(zero, y) & less(y, one)
    if any(soft):
        b = soft_focal(z, y, opposite, larger, smaller, log_term, loss, alpha, one_less_alpha, &soft_grad,
                       &soft_hess)
        value = select(soft, b if options is General else sum + b, value)
        grad[0] = select(soft, soft_grad, grad[0])
        hess[0] = select(soft, soft_hess, hess[0])
    return value


cdef inline vec[real] soft_focal(vec[real] z, vec[real] y, vec[real] opposite, vec[real] larger,
                                 vec[real] smaller, vec[real] log_term, const SigmoidFocal* loss,
                                 vec[real] alpha, vec[real] one_less_alpha, vec[real]* grad,
                                 vec[real]* hess) noexcept nogil:
    # f = a r^gamma b with r = 1 - p_t = p (1 - y) + q y for p = sigma(z), q = sigma(-z), b = BCE of y:
    #     f'  = a r^gamma (gamma rho b + b'),         rho = r' / r,  r' = p q (1 - 2 y)
    #     f'' = a r^gamma (gamma rho b ((gamma - 1) rho + q - p) + 2 gamma rho b' + p q)
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1), g = splat(<real> loss.gamma)
    cdef vec[real] p = select_negative(z, smaller, larger)
    cdef vec[real] q = select_negative(z, larger, smaller)
    cdef vec[real] r = fma(p, opposite, q * y)
    cdef vec[real] rho = p * q * (opposite - y) / r
    cdef vec[real] b = y * (max(-z, zero) + log_term) + opposite * (max(z, zero) + log_term)
    cdef vec[real] slope = less_product(opposite * p, y, q)
    cdef vec[real] weight = fma(y, alpha, opposite * one_less_alpha)
    if loss.whole_gamma > 0:
        weight = weight * (r * r if loss.whole_gamma == 2 else r)
    elif loss.whole_gamma < 0:
        weight = weight * exp(g * log(r))
    cdef vec[real] g_rho_b = g * select(equal(rho, zero), zero, rho * b)
    grad[0] = weight * (g_rho_b + slope)
    hess[0] = weight * (g_rho_b * ((g - one) * rho + (q - p)) + (g + g) * rho * slope + p * q)
    return select(equal(weight, zero), weight, weight * b)


cdef enum:
    CHUNK_AHEAD = 4096  # bytes from a logit to the one that is fetched meanwhile: a chunk is a page, at whose
    #                     end the processor's own fetching ends. From memory BCE takes 0.77 ns an element so,
    #                     and 0.84 without, focal loss 1.18 and 1.29; from the cache 1.5 and 3 % more


cdef struct Chunk:
    # One chunk as the loops take it, all in the working precision.
    void* z
    void* e         # exp(-|z|); then powers of focal loss, and single losses, where they are wanted
    void* smaller   # sigma(-|z|), where it has a loop of its own
    void* log_term  # log1p(e), likewise
    void* y
    void* positive_weight
    void* negative_weight
    void* weight
    void* factor    # of the derivatives: grad_output
    void* grad
    void* hess
    void* streamed  # where the gradient goes past the caches a stride after it is made, or NULL
    double label_smoothing
    double scale
    bint has_values     # whether single losses are wanted
    bint suspect        # whether a target may lie outside [0, 1]
    bint extraordinary  # whether this chunk, or one before it, is not Ordinary


cdef inline void* option_chunk(const Numbers* option, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t count,
                               real* buffer) noexcept nogil:
    # The elements from `begin` on: ones where the option is not given, zeros past the end.
    if option.data != NULL:
        return read_numbers(option, first + begin, count - begin, buffer + begin) - begin
    fill(buffer, begin, count, <real> 1)
    fill(buffer, count, count + 16, <real> 0)
    return buffer


cdef const real* weights_of_chunk(const Elements* arrays, Py_ssize_t first, Py_ssize_t begin,
                                  Py_ssize_t count, real* weight, real* used) noexcept nogil:
    # 0 where masked and past the end.
    cdef const real* given
    cdef Py_ssize_t i = begin
    if arrays.sample_weight.data == NULL and arrays.mask.data != NULL:
        return <const real*> option_chunk(&arrays.mask, first, begin, count, weight)
    given = <const real*> option_chunk(&arrays.sample_weight, first, begin, count, weight)
    if arrays.mask.data == NULL:
        return given
    option_chunk(&arrays.mask, first, begin, count, used)
    while i < count:
        store(weight + i, drop(equal(load(<const real*> used + i), splat(<real> 0)), load(given + i)))
        i += lanes(<real> 0)
    return weight


cdef void options_of_chunk(const Elements* arrays, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t count,
                           Chunk* chunk, double* memory, real tag) noexcept nogil:
    # What does not change from chunk to chunk is there from the first one on.
    cdef bint anew = chunk.weight == NULL or count < chunk_elements(tag)
    cdef real* factor = place(memory, 8, tag)
    if anew or not is_constant(&arrays.positive_weight):
        chunk.positive_weight = option_chunk(&arrays.positive_weight, first, begin, count,
                                             place(memory, 5, tag))
    if anew or not is_constant(&arrays.negative_weight):
        chunk.negative_weight = option_chunk(&arrays.negative_weight, first, begin, count,
                                             place(memory, 6, tag))
    if anew or not (is_constant(&arrays.sample_weight) and is_constant(&arrays.mask)):
        chunk.weight = <void*> weights_of_chunk(arrays, first, begin, count, place(memory, 7, tag), factor)
        anew |= arrays.mask.data != NULL and arrays.sample_weight.data != NULL  # `used` was in its place
    if anew or not is_constant(&arrays.grad_output):
        chunk.factor = option_chunk(&arrays.grad_output, first, begin, count, factor)


cdef inline vec[real] log1p_of(vec[real] e, options kind) noexcept nogil:
    # In float64 the square of less than 1e-154 would underflow, which costs more than all else: such numbers,
    # of which an Ordinary chunk has none, are their own logarithms.
    cdef vec[real] least
    if options is Ordinary or real is float:
        return log1p(e)
    else:
        least = splat(<real> 1e-30)
        return select(less(e, least), e, log1p(max(least, e)))


cdef void exponentials_of_chunk(Chunk* chunk, Py_ssize_t count, const sigmoid_loss* loss, options kind,
                                real tag) noexcept nogil:
    # e = exp(-|z|), and whether this chunk is Ordinary. Fetches the lines that the next chunk reads and, for
    # BCE, this one writes: 0.77 ns an element, 0.81 without.
    cdef int width = lanes(tag)
    cdef const real* z = <const real*> chunk.z
    cdef const real* y = <const real*> chunk.y
    cdef vec[real] z_i, y_i
    cdef bits_watch[real] targets, logits, between
    cdef Py_ssize_t i = 0, k
    while i < count:  # to the end of a line, where the chunk has room
        fetch(<const char*> (z + i) + CHUNK_AHEAD)
        fetch(<const char*> (y + i) + CHUNK_AHEAD)
        if sigmoid_loss is Bce:
            fetch_to_write(<const char*> (<const real*> chunk.grad + i))
        for k in range(max_size(cache_line // (width * <int> sizeof(real)), 1)):
            z_i = negative_abs(load(z + i))
            y_i = load(y + i)
            targets.see(y_i)
            if options is Ordinary:
                logits.see(z_i)
                if sigmoid_loss is SigmoidFocal:
                    between.see_negated(y_i)
                store(<real*> chunk.e + i, normal_exp(z_i))
            else:
                store(<real*> chunk.e + i, exp(z_i))
            i += width
    if options is Ordinary:
        chunk.extraordinary = (logits.exceeds(smallest_normal_exp(tag) if real is float else <real> -345)
                               or (sigmoid_loss is SigmoidFocal and between.is_nearer(<real> 1)))
    chunk.suspect |= targets.exceeds(<real> 1)


cdef void logistic_of_chunk(const Chunk* chunk, Py_ssize_t begin, Py_ssize_t count, const SigmoidFocal* loss,
                            options kind, real tag) noexcept nogil:
    # A division and a logarithm of each e, which then gives place to r^gamma where that is not r * r. Fetches
    # the lines that the next loop will write: focal loss takes 1.09 ns an element from memory so, 1.13 where
    # they are fetched a loop earlier, and 1.18 without.
    cdef const real* e = <const real*> chunk.e
    cdef Py_ssize_t i = begin
    cdef vec[real] e_i, x, smaller
    while i < count:
        e_i = load(e + i)
        fetch_to_write(<const char*> (<const real*> chunk.grad + i))
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
    # Elements from `begin`, where a stride begins, to `count`.
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
    # A copy, which no store of the loop can change: the compiler would read and convert its numbers for each
    # vector (focal loss from the cache: 1.04 ns an element, and 0.97 so).
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
                    total = y_i + opposite
                if not adds_logarithms_apart(loss, kind, tag):
                    log_term = log1p_of(e_i, kind)
                value = bce(z_i, e_i, log_term, y_i, opposite, total, partial, &grad, &hess, kind)
            else:
                alpha = splat(<real> own.alpha_positive)
                one_less_alpha = splat(<real> own.alpha_negative)
                if options is General:  # numbers of each element, or ones
                    alpha = alpha * load(<const real*> chunk.positive_weight + i)
                    one_less_alpha = one_less_alpha * load(<const real*> chunk.negative_weight + i)
                value = sigmoid_focal(z_i, load(smaller + i), load(log_terms + i), e + i, y_i, opposite, &own,
                                      alpha, one_less_alpha, partial, &grad, &hess, kind)
            if options is General:
                # drop: an element of weight 0 counts nothing, even if it is NaN.
                weight = load(<const real*> chunk.weight + i)
                unused = equal(weight, zero)
                value = drop(unused, weight * value)
                weight = load(<const real*> chunk.factor + i) * (weight * scale)
                grad = drop(unused, weight * grad)
                hess = drop(unused, weight * hess)
                if chunk.has_values:
                    store(<real*> chunk.e + i, value)
                partial = partial + value
            else:
                partial = value
                grad = scale * grad
                hess = scale * hess
            if derivatives is WithHessian:
                store(<real*> chunk.hess + i, hess)
            if derivatives is not ValueOnly:
                store(<real*> chunk.grad + i, grad)
            i += width
        sum.add(partial)
    if derivatives is not ValueOnly:
        if chunk.streamed != NULL:
            stream(<real*> chunk.streamed, <const real*> chunk.grad, streamed, count, False)


cdef bint run_elements(const Elements* arrays, const sigmoid_loss* loss, Py_ssize_t start,
                       Py_ssize_t stop, derivatives order, real tag, double* total) noexcept nogil:
    # The elements from `start`, a multiple of ELEMENTS. Adds the weighted losses up in fixed order.
    # True if a target may lie outside [0, 1].
    cdef double memory[9 * BUFFER]
    cdef Py_ssize_t first = start, count, whole, size = chunk_elements(tag)
    cdef bint streams = arrays.streams, suspect = False
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
        chunk.suspect = False
        if not chunk.extraordinary:
            exponentials_of_chunk(&chunk, count, loss, is_ordinary_chunk, tag)
        if chunk.extraordinary:  # its exponentials are made twice; behind it none is expected to be ordinary
            exponentials_of_chunk(&chunk, count, loss, is_plain_chunk, tag)
        if chunk.suspect and not suspect:
            suspect = any_outside(used_targets(arrays, first, count, <const real*> chunk.y,
                                               place(memory, 7, tag), place(memory, 8, tag)), count, <real> 1)
            chunk.weight = NULL
        whole = 0
        if plain:
            # Whole strides; what is left of a short chunk ends within a vector.
            whole = count - count % (STRIDE_VECTORS * lanes(tag))
            if chunk.extraordinary or smooth:
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
    return suspect
