# Many classes, contiguous: the lanes of a vector run over the classes of one row.
#
# A row goes through in chunks that stay in the first-level cache: conversion if needed, exponentials of the
# logits as they are, if these are moderate, else relative to the chunk's own maximum. Both ways lead to the
# chunk's maximum m and the sum of the exponentials relative to it, A. Chunks merge into the row by
#     (m1, A1) + (m2, A2) = (m1, A1 + (1 + A2) exp(m2 - m1)),  m1 >= m2,
# A being the sum of the exponentials less one for a maximum; (-inf, -1) is the summary of nothing.
# So the logits are read from memory once, and e_j waits in the gradient's own row, or in a scratch row
# that the second-level cache holds, for the pass that scales it. Longer rows compute it again.

cdef enum:
    SHORT_ROW = 256       # the losses of rows of up to so many classes are added up in blocks, those of
    #                       longer ones one by one, so that a task may begin at any row
    KEPT_CLASSES = 32768  # a scratch row of 128 KB (float32); the gradient's own row may be longer:
    KEPT_CHUNKS = 512     # 2**20 classes


cdef struct RowWork:
    # Scratch of one kernel call; every chunk buffer has room for CHUNK elements.
    void* u
    void* e
    void* t
    void* grad
    void* hess
    void* slope             # du/dz of a chunk, where capped
    void* p                 # exponentials relative to the row's maximum
    void* maxima            # of the strides of a chunk, lane by lane
    void* sums              # of their exponentials
    bint immoderate         # whether the last chunk was: the next one is not tried then
    void* row               # KEPT_CLASSES elements a row, or NULL
    # e_j of a chunk is unit * exp(u_j - reference).
    double references[KEPT_CHUNKS]
    double units[KEPT_CHUNKS]


cdef inline double chunk_factor(const RowWork* work, Py_ssize_t chunk, double maximum) noexcept nogil:
    # What makes the exponentials of a chunk relative to the row's maximum, but for their unit.
    return exp(splat(work.references[chunk] - maximum))[0]


cdef inline bint uses_e_row(const Batch* batch, real tag) noexcept nogil:
    # Whether e_j may wait in the gradient's own row.
    return (batch.grad.data != NULL and batch.kind != LOG_SOFTMAX
            and batch.grad.storage <= FLOAT64 and batch.softcap == 0.0
            and batch.classes <= KEPT_CHUNKS * CHUNK)


cdef inline void look_ahead(const Batch* batch, Py_ssize_t row, Py_ssize_t first, Py_ssize_t stop,
                            Ahead* ahead) noexcept nogil:
    # What will be needed when another CHUNK of elements has been done, of rows before `stop`: where the
    # exponentials are not stored in a gradient. Beside the reads and writes of that it does harm (1024 x
    # 32000 with AVX-512: 0.53 ns an element, 0.47 without), for the loss alone good (0.32, 0.36), and
    # for 16 bits (0.55, 0.62).
    memset(ahead, 0, sizeof(ahead[0]))
    if batch.grad.data != NULL and batch.grad.storage <= FLOAT64:
        return
    first += CHUNK
    if first >= batch.classes:
        row += CHUNK // batch.classes + 1
        first = 0
    if row >= stop:
        return
    ahead.logits_size = batch.logits.class_stride
    ahead.logits = row_address(&batch.logits, row) + first * ahead.logits_size
    if batch.probabilities.data != NULL:
        ahead.target_size = batch.probabilities.class_stride
        ahead.target = row_address(&batch.probabilities, row) + first * ahead.target_size


cdef inline bint is_relative(const Batch* batch, real tag) noexcept nogil:
    # Of float64 focal loss the exponential of the maximum has an error, too, which gamma multiplies (gamma =
    # 2: 11.6 ULP for 10.2).
    return real is double and batch.kind == FOCAL


cdef inline double chunk_statistics(const Batch* batch, const real* u, Py_ssize_t count, real* e,
                                    real maximum, real minimum, bint known, const Ahead* ahead,
                                    RowWork* work, Py_ssize_t chunk, real* top_logit) noexcept nogil:
    # The exponentials of a chunk, its maximum, and their sum less one for a maximum and relative to it. The
    # extremes may be known before; otherwise the logits are taken for moderate ones.
    cdef real* maxima = <real*> work.maxima
    cdef real* sums = <real*> work.sums
    cdef Moderate moderate
    cdef AllNormal all_normal
    cdef AnySize any_size
    cdef vec[double] inverse
    cdef double infinite_others = 0.0
    cdef bint is_moderate = not known or (not is_relative(batch, maximum) and are_moderate(minimum, maximum))
    if is_moderate:
        exponentials(u, count, e, maxima, sums, &minimum, &maximum, ahead, moderate)
        is_moderate = are_moderate(minimum, maximum)
    work.immoderate = not is_moderate
    top_logit[0] = maximum
    if is_moderate:
        inverse = exp(splat(-<double> maximum))
        work.references[chunk] = 0.0
        work.units[chunk] = moderate_unit(maximum)
        return (sum_but_one(e, count, maxima, sums, maximum, moderate_exp(splat(maximum)))
                * (inverse[0] / moderate_unit(maximum)))
    if maximum == INFINITY:
        infinite_others = others_of_infinity(u, count)  # now: u may be the place of e
    # A chunk without a finite logit has no maximum to be relative to.
    maximum = maximum if maximum > -INFINITY else 0
    work.references[chunk] = maximum
    work.units[chunk] = 1.0 / lowering(maximum)
    if all_normal_below(minimum, maximum):
        exponentials(u, count, e, maxima, sums, &minimum, &maximum, ahead, all_normal)
    else:
        exponentials(u, count, e, maxima, sums, &minimum, &maximum, ahead, any_size)
    if maximum == INFINITY:
        return infinite_others
    return (sum_but_one(e, count, maxima, sums, maximum, splat(<real> (1.0 / lowering(maximum))))
            * lowering(maximum))


cdef void row_statistics(const Batch* batch, Py_ssize_t row, Py_ssize_t last_row, RowBlock* block,
                         Py_ssize_t i, RowWork* work, real* e_row) noexcept nogil:
    cdef Py_ssize_t first = 0, count, chunk = 0, label = block.label[i], best = 0, k
    cdef const real* u
    cdef const real* t
    cdef real* e
    cdef real chunk_maximum = 0, chunk_minimum = 0
    cdef real reference
    cdef double m = -INFINITY, others = -1.0, chunk_others
    cdef double uniform = 0.0, mass = 0.0, distance = 0.0, soft_reference = 0.0
    cdef double chunk_mass, chunk_distance, gap, higher, lower
    cdef bint soft = is_soft(batch), is_higher, known
    cdef Ahead ahead
    if soft:
        uniform = smoothing_share(batch, row)
    while first < batch.classes:
        count = min_size(CHUNK, batch.classes - first)
        u = logits_chunk(batch, row, first, count, <real*> work.u, <real*> work.slope)
        # Where nobody wants the exponentials they are stored all the same, in the cache, for those of the
        # maximum's stride are looked at once more.
        e = e_row + first if e_row else <real*> work.e
        known = soft or work.immoderate or <const real*> e == u or is_relative(batch, chunk_maximum)
        if known:
            chunk_maximum = maximum_of(u, count, <real*> work.maxima, &chunk_minimum)
        if first <= label < first + count:
            block.target_logit[i] = read(u + label - first)
        if soft:
            t = target_chunk(batch, row, first, count, uniform, <real*> work.t)
            chunk_mass = 0.0
            chunk_distance = 0.0
            reference = chunk_maximum if chunk_maximum > -INFINITY else 0
            soft_sums(t, u, count, reference, &chunk_mass, &chunk_distance)
            if first <= label < first + count:
                block.soft_at_target[i] = read(t + label - first)
            # Both sums so far are relative to soft_reference, the larger one of the two chunks'.
            if first == 0 or reference > soft_reference:
                if mass != 0.0:
                    distance += mass * (reference - soft_reference)
                soft_reference = reference
            elif chunk_mass != 0.0:
                chunk_distance += chunk_mass * (soft_reference - reference)
            mass += chunk_mass
            distance += chunk_distance
        look_ahead(batch, row, first, last_row, &ahead)
        chunk_others = chunk_statistics(batch, u, count, e, chunk_maximum, chunk_minimum, known, &ahead,
                                        work, chunk if e_row else 0, &chunk_maximum)
        if first == 0:
            m = chunk_maximum
            others = chunk_others
        else:
            # Without a branch, which would be foreseen badly, and would throw away the loads under way.
            is_higher = chunk_maximum > m
            gap = m - chunk_maximum if is_higher else chunk_maximum - m
            gap = 0.0 if chunk_maximum == -INFINITY or chunk_maximum == m else gap  # not inf - inf
            higher = chunk_others if is_higher else others
            lower = others if is_higher else chunk_others
            m = chunk_maximum if is_higher else m
            best = first if is_higher else best
            others = higher + (1.0 + lower) * exp(splat(gap))[0]
        chunk += 1
        first += count
    block.maximum[i] = m
    block.others[i] = others
    if soft:
        block.soft_mass[i] = mass
        block.soft_distance[i] = distance
        if mass != 0.0 and m > -INFINITY:
            block.soft_distance[i] += mass * (m - soft_reference)
    if batch.argmax:
        u = logits_chunk(batch, row, best, min_size(CHUNK, batch.classes - best), <real*> work.u, <real*> work.slope)
        k = 0
        while k < min_size(CHUNK, batch.classes - best) and read(u + k) < <real> m:
            k += 1
        write(batch.argmax + row, <long long> (best + k))


cdef inline bint is_multiple(const Batch* batch) noexcept nogil:
    # Whether the gradient is that of softmax but for a factor and the target.
    return batch.hess.data == NULL and batch.mask.data == NULL and not is_soft(batch)


cdef inline void write_plain_row(const Batch* batch, Py_ssize_t row, const RowBlock* block, Py_ssize_t i,
                                 const RowWork* work, const real* e_row) noexcept nogil:
    # As write_row, without its preparations for other rows (8192 x 1000: 0.56 ns an element with
    # them, 0.47 without).
    cdef real* grad = <real*> row_address(&batch.grad, row)
    cdef double plain = block.row_scale[i] * block.softmax_coefficient[i] * batch.logit_scale
    cdef Py_ssize_t first = 0, chunk = 0, count
    while first < batch.classes:
        count = min_size(CHUNK, batch.classes - first)
        scale(e_row + first, plain, chunk_factor(work, chunk, block.maximum[i]), work.units[chunk],
              grad + first, count)
        chunk += 1
        first += count
    if block.label[i] >= 0:
        write(grad + block.label[i], <real> (block.grad_at_label[i] * batch.logit_scale))


cdef void write_row(const Batch* batch, Py_ssize_t row, const RowBlock* block, Py_ssize_t i,
                    RowWork* work, const real* e_row) noexcept nogil:
    cdef Py_ssize_t first = 0, count, chunk = 0, label = block.label[i]
    cdef bint soft = is_soft(batch), wants_hess = batch.hess.data != NULL
    cdef bint direct = batch.grad.storage <= FLOAT64 and batch.softcap == 0.0
    cdef const real* e
    cdef const real* u
    cdef const real* t = NULL
    cdef real* grad
    cdef real* hess = <real*> work.hess
    cdef char* grad_row = row_address(&batch.grad, row)
    cdef char* hess_row = row_address(&batch.hess, row) if wants_hess else NULL
    cdef Py_ssize_t grad_size = batch.grad.class_stride, hess_size = batch.hess.class_stride
    cdef double chain = batch.logit_scale if batch.softcap == 0.0 else 1.0
    cdef double uniform = smoothing_share(batch, row) if soft else 0.0, relative, unit
    cdef vec[real] others = splat(<real> block.others[i]), pull = splat(<real> block.softmax_coefficient[i])
    cdef vec[real] scale_of_row = splat(<real> (block.row_scale[i] * chain))
    cdef vec[real] product = splat(<real> (block.hess_product[i] * chain * chain))
    cdef vec[real] square = splat(<real> (block.hess_square[i] * chain * chain))
    cdef bint cleared = batch.mask.data != NULL and (soft or has_no_softmax(block, i))
    cdef double plain
    cdef real at_target, minimum, maximum = <real> block.maximum[i]
    cdef real* maxima = <real*> work.maxima
    cdef AnySize any_size
    cdef vec[real] top = splat(<real> -1)  # the exponential that is 1 relative to the maximum: exactly 1
    cdef Ahead nothing
    memset(&nothing, 0, sizeof(nothing))
    if not block.active[i]:
        memset(grad_row, 0, batch.classes * grad_size)
        if wants_hess:
            memset(hess_row, 0, batch.classes * hess_size)
        return
    while first < batch.classes:
        count = min_size(CHUNK, batch.classes - first)
        grad = <real*> grad_row + first if direct else <real*> work.grad
        if e_row:
            e = e_row + first
            relative = chunk_factor(work, chunk, block.maximum[i])
            unit = work.units[chunk]
            if unit == moderate_unit(maximum):
                top = moderate_exp(splat(maximum))
        else:
            u = logits_chunk(batch, row, first, count, <real*> work.u, <real*> work.slope)
            exponentials(u, count, <real*> work.e, maxima, <real*> work.sums, &minimum, &maximum, &nothing,
                         any_size)
            e = <const real*> work.e
            relative = 1.0
            unit = 1.0 / lowering(maximum)
        if soft:
            t = target_chunk(batch, row, first, count, uniform, <real*> work.t)
        plain = block.row_scale[i] * block.softmax_coefficient[i] * chain
        if (not direct and not soft and not wants_hess and not cleared and batch.softcap == 0.0
                and first_factor(plain * relative / unit, <real> 0) == 1.0):
            # 16 bits, at one go: by way of work.grad bfloat16 takes 0.31 ns an element of
            # cached rows with AVX-512, so 0.29.
            narrow_times(e, <real> (plain * relative / unit), grad_row + first * grad_size,
                         batch.grad.storage, count)
            if first <= label < first + count:
                at_target = <real> (block.grad_at_label[i] * chain)
                narrow(&at_target, grad_row + label * grad_size, batch.grad.storage, 1)
            chunk += 1
            first += count
            continue
        if soft or wants_hess:
            relative_to_top(e, relative, unit, top, <real*> work.p, count)
        if wants_hess:
            hessian_pass(<const real*> work.p, count, others, product, square, hess)
        if soft:
            soft_gradient_pass(<const real*> work.p, t, count, pull, others, scale_of_row, grad)
        else:
            scale(e, plain, relative, unit, grad, count)
        if first <= label < first + count:
            write(grad + label - first, <real> (block.grad_at_label[i] * chain))
            if wants_hess:
                hess[label - first] = <real> (block.hess_at_label[i] * chain * chain)
        if cleared:
            clear_masked(batch, row, first, count, grad, 1)
            if wants_hess:
                clear_masked(batch, row, first, count, hess, 1)
        if batch.softcap != 0.0:
            logits_chunk(batch, row, first, count, <real*> work.u, <real*> work.slope)
            chain_rule(batch, <const real*> work.u, <const real*> work.slope, count, grad,
                       hess if wants_hess else NULL)
        if not direct:
            narrow(grad, grad_row + first * grad_size, batch.grad.storage, count)
        if wants_hess:
            narrow(hess, hess_row + first * hess_size, batch.hess.storage, count)
        chunk += 1
        first += count


cdef void write_log_softmax(const Batch* batch, Py_ssize_t row, const RowBlock* block, Py_ssize_t i,
                            RowWork* work, real tag) noexcept nogil:
    # (u - m) - log1p(others): exact at the top end, where lse would round to u.
    cdef int width = lanes(tag)
    cdef vec[real] m = splat(<real> block.maximum[i]), log_total = splat(<real> block.softmax_coefficient[i])
    cdef bint direct = batch.grad.storage <= FLOAT64
    cdef Py_ssize_t first = 0, count, j
    cdef const real* u
    cdef real* to
    cdef char* row_to = row_address(&batch.grad, row)
    while first < batch.classes:
        count = min_size(CHUNK, batch.classes - first)
        u = logits_chunk(batch, row, first, count, <real*> work.u, <real*> work.slope)
        to = <real*> row_to + first if direct else <real*> work.grad
        j = 0
        while j < count - width + 1:
            store(to + j, (load(u + j) - m) - log_total)
            j += width
        if j < count:
            store_first(to + j, count - j, (load_first(u + j, count - j, <real> 0) - m) - log_total)
        if not direct:
            narrow(to, row_to + first * batch.grad.class_stride, batch.grad.storage, count)
        first += count


cdef inline void take_row(const Batch* batch, const RowBlock* block, Py_ssize_t i,
                          RowBlock* one) noexcept nogil:
    # What finish_rows loads of a single row and other rows have changed, as whole vectors. A vector's
    # load waits for smaller stores to reach the cache, and these for all stores before them, which are
    # those of the row's exponentials on their way to memory. A store of the same size is handed on. And
    # no store too many: they all wait in one queue (8192 x 1000: 0.52 ns an element with ten more, 0.49).
    store(&one.maximum[0], splat(block.maximum[i]))
    store(&one.others[0], splat(block.others[i]))
    store(&one.target_exp[0], splat(block.target_exp[i]))
    one.label[0] = block.label[i]
    one.active[0] = block.active[i]
    if gradient_needs_logarithm(batch):
        store(&one.target_logit[0], splat(block.target_logit[i]))
    if is_soft(batch):
        store(&one.soft_mass[0], splat(block.soft_mass[i]))
        store(&one.soft_at_target[0], splat(block.soft_at_target[i]))
        store(&one.soft_distance[0], splat(block.soft_distance[i]))
    if batch.class_weight:
        store(&one.hard_mass[0], splat(block.hard_mass[i]))
    if batch.sample_weight.data or batch.grad_output.data:
        store(&one.factor[0], splat(block.factor[i]))


cdef inline real* exponentials_row(const Batch* batch, Py_ssize_t row, const RowWork* work, bint in_grad,
                                   real tag) noexcept nogil:
    # Where a row's exponentials wait, if they do.
    if in_grad:
        return <real*> row_address(&batch.grad, row)
    return <real*> work.row


cdef void find_statistics(const Batch* batch, Py_ssize_t first, Py_ssize_t stop, RowBlock* block,
                          Py_ssize_t i, RowWork* work, bint in_grad, real tag) noexcept nogil:
    # All that is known of a row, once its label is. Focal loss needs the target's exponential without a
    # gradient, too.
    if block.active[i]:
        row_statistics(batch, first + i, stop, block, i, work,
                       exponentials_row(batch, first + i, work, in_grad, tag))
        if block.label[i] >= 0 and (batch.grad.data != NULL or batch.kind == FOCAL):
            block.target_exp[i] = exp(splat(block.target_logit[i] - block.maximum[i]))[0]
    else:
        block.maximum[i] = block.others[i] = 0.0
        block.soft_mass[i] = block.soft_distance[i] = 0.0


cdef void write_derivatives(const Batch* batch, Py_ssize_t row, RowBlock* block, Py_ssize_t i,
                            RowWork* work, bint in_grad, real tag) noexcept nogil:
    cdef real* e_row = exponentials_row(batch, row, work, in_grad, tag)
    if block.label[i] >= 0:
        forget_masked_target(batch, row, block, i)
    if in_grad and block.active[i] and is_multiple(batch):
        write_plain_row(batch, row, block, i, work, e_row)
    elif batch.kind == LOG_SOFTMAX:
        write_log_softmax(batch, row, block, i, work, tag)
    else:
        write_row(batch, row, block, i, work, e_row)


cdef int run_rows(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, real tag,
                  double* total) noexcept nogil:
    # Rows [start, stop) of a batch whose class axis is contiguous.
    cdef RowBlock block, one
    cdef RowWork work
    cdef Py_ssize_t row = start, rows, i
    cdef Py_ssize_t padded = CHUNK + 64 // sizeof(real)  # lines of cache: vectors lie within one
    cdef char* memory
    cdef bint in_grad = uses_e_row(batch, tag)
    cdef bint scratch = (batch.grad.data != NULL and not in_grad and batch.classes <= KEPT_CLASSES
                         and batch.kind != LOG_SOFTMAX)
    cdef bint wants_grad = batch.grad.data != NULL
    # A row is written best right after it has been read. What is left of it, the loss where the gradient
    # does not need the logarithm, waits for the whole block: between the exponentials of a row and its
    # gradient nothing is asked of the memory, so that what happens there counts twice (8192 x 1000: 0.54 ns
    # an element with the logarithm there, 0.50 without), and a vector's logarithms take no longer than one.
    cdef bint later = not gradient_needs_logarithm(batch)
    cdef int status = OK
    begin_batch(batch, &block)
    begin_batch(batch, &one)
    memory = <char*> malloc((9 * padded + (batch.classes if scratch else 0)) * sizeof(real) + 64)
    if memory == NULL:
        return NO_MEMORY
    work.u = memory + (64 - <size_t> memory % 64)
    work.e = <char*> work.u + padded * sizeof(real)
    work.t = <char*> work.u + 2 * padded * sizeof(real)
    work.grad = <char*> work.u + 3 * padded * sizeof(real)
    work.hess = <char*> work.u + 4 * padded * sizeof(real)
    work.p = <char*> work.u + 5 * padded * sizeof(real)
    work.maxima = <char*> work.u + 6 * padded * sizeof(real)
    work.sums = <char*> work.u + 7 * padded * sizeof(real)
    work.slope = <char*> work.u + 8 * padded * sizeof(real)
    work.row = <char*> work.u + 9 * padded * sizeof(real) if scratch else NULL
    work.immoderate = False
    while row < stop:
        rows = min_size(BLOCK_ROWS, stop - row)
        status = begin_rows(batch, row, rows, &block)
        if status != OK:
            break
        for i in range(rows):
            find_statistics(batch, row, stop, &block, i, &work, in_grad, tag)
            if wants_grad:
                take_row(batch, &block, i, &one)
                finish_rows(batch, &one, 1, NULL, not later, True)
                if not later:
                    block.value[i] = one.value[0]
                    block.log_sum_exp[i] = one.log_sum_exp[0]
                write_derivatives(batch, row + i, &one, 0, &work, in_grad, tag)
        if later or not wants_grad:
            finish_rows(batch, &block, rows, NULL, True, False)
        end_rows(batch, row, rows, &block, batch.classes > SHORT_ROW, tag, total)
        row += rows
    free(memory)
    return status
