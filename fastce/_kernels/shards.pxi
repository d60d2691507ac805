# Rows whose classes are spread over shards: from what is known of whole rows to their losses, and to the gradient
# of the classes that one shard holds. Needs formulas.pxi, packing.pxi, run_passes.pxi, chunks.pxi.

cdef enum:
    # Classes of a chunk that are not contiguous: of a block of rows they stay in the second-level cache, where
    # neighbouring rows find their lines again.
    CHUNK_OF_PLANES = 256

# Beyond this maximum exp(-maximum) is no normal number, though with an exponential it may make one.
cdef double LARGEST_REFERENCE = 600.0


cdef struct Shard:
    # Whole rows, one number each ...
    const double* maximum
    const double* others
    const double* target_logit
    const double* soft_mass        # NULL without label smoothing
    const double* soft_distance
    const double* kept             # classes that a mask leaves in; NULL without one
    const double* soft_weight      # label_smoothing / K * weight of all classes, or NULL
    # ... and the classes that this shard holds.
    const double* own_maximum      # of each row
    Py_ssize_t first_class
    Py_ssize_t width


cdef struct ShardWork:
    # Scratch of one call; every buffer has room for CHUNK elements.
    void* stored      # numbers that do not lie side by side, on their way in or out
    void* u
    void* slope
    void* e
    void* t
    void* grad
    void* maxima
    void* sums


cdef int begin_shard_rows(const Batch* batch, const Shard* shard, Py_ssize_t first, Py_ssize_t rows,
                          RowBlock* block) noexcept nogil:
    # What finish_rows takes of a block of whole rows.
    cdef Py_ssize_t i
    cdef double spread
    cdef int status = begin_rows(batch, first, rows, block)
    if status != OK:
        return status
    for i in range(rows):
        if not block.active[i]:  # loss 0 and a finite gradient, to be multiplied by 0
            block.maximum[i] = block.others[i] = block.target_logit[i] = 0.0
            block.soft_mass[i] = block.soft_at_target[i] = block.soft_distance[i] = 0.0
            block.target_exp[i] = 1.0
            continue
        block.maximum[i] = shard.maximum[first + i]
        block.others[i] = shard.others[first + i]
        block.target_logit[i] = shard.target_logit[first + i]
        block.target_exp[i] = exp(splat(block.target_logit[i] - block.maximum[i]))[0]
        if shard.soft_weight:
            spread = spread_of(batch, shard, first + i)
            block.soft_mass[i] = shard.soft_mass[first + i] * spread
            block.soft_distance[i] = shard.soft_distance[first + i] * spread
            block.soft_at_target[i] = shard.soft_weight[block.label[i]] * spread
    return OK


cdef inline double spread_of(const Batch* batch, const Shard* shard, Py_ssize_t row) noexcept nogil:
    # Label smoothing is spread over the classes that are left in, not over all.
    return <double> batch.classes / shard.kept[row] if shard.kept else 1.0


cdef inline bint lies_side_by_side(const Matrix* matrix) noexcept nogil:
    return matrix.class_stride == storage_size(matrix.storage)


cdef void find_shard_exponentials(const real* u, Py_ssize_t count, bint known, double row_maximum, ShardWork* work,
                                  double* relative, double* unit) noexcept nogil:
    # e_j = unit * exp(u_j - m) / relative, in work.e, with the maximum m of the whole row: of moderate logits, as
    # which any may be tried, as they are, of others relative to their own maximum. It is the chunk that decides,
    # whatever is known before: bits do not depend on neighbours.
    cdef real* e = <real*> work.e
    cdef real* maxima = <real*> work.maxima
    cdef real* sums = <real*> work.sums
    cdef real lowest = 0, highest = 0
    cdef bint is_moderate = row_maximum < LARGEST_REFERENCE
    cdef double reference = 0.0
    cdef Ahead nothing
    cdef Moderate moderate
    cdef AnySize any_size
    memset(&nothing, 0, sizeof(nothing))
    unit[0] = moderate_unit(highest)
    if known or not is_moderate:
        highest = maximum_of(u, count, maxima, &lowest)
        is_moderate = is_moderate and are_moderate(lowest, highest)
    if is_moderate:
        exponentials(u, count, e, maxima, sums, &lowest, &highest, &nothing, moderate)
        is_moderate = are_moderate(lowest, highest)
    if not is_moderate:
        highest = highest if highest > -INFINITY else 0  # nothing is relative to no finite logit
        reference = highest
        unit[0] = 1.0 / lowering(highest)
        exponentials(u, count, e, maxima, sums, &lowest, &highest, &nothing, any_size)
    relative[0] = exp(splat(reference - row_maximum))[0]


cdef void add_soft_targets(const Shard* shard, Py_ssize_t first, Py_ssize_t count, double factor, ShardWork* work,
                           real* grad) noexcept nogil:
    # grad += factor * t_j of some of the shard's classes.
    cdef int width = lanes(<real> 0)
    cdef real* t = <real*> work.t
    cdef Py_ssize_t j = 0
    cdef vec[real] c[2]
    cdef Smoothed smoothed
    c[0] = splat(<real> 1)
    c[1] = splat(<real> factor)
    widen(<const char*> (shard.soft_weight + shard.first_class + first), FLOAT64, t, count)
    while j + width <= count:
        store(grad + j, passed(load(<const real*> grad + j), load(<const real*> t + j), &c[0], smoothed))
        j += width
    if j < count:
        store_first(grad + j, count - j, passed(load_first(<const real*> grad + j, count - j, <real> 0),
                                                load_first(<const real*> t + j, count - j, <real> 0), &c[0],
                                                smoothed))


cdef void write_shard_chunk(const Batch* batch, const Shard* shard, Py_ssize_t row, Py_ssize_t first,
                            Py_ssize_t count, const RowBlock* block, Py_ssize_t i, ShardWork* work,
                            real tag) noexcept nogil:
    # The gradient of `count` of the shard's classes from `first`, of one row.
    cdef Batch window = batch[0]  # of which these classes are the whole first row
    cdef Py_ssize_t size = storage_size(batch.grad.storage), label = block.label[i] - shard.first_class - first
    cdef double chain = batch.logit_scale if batch.softcap == 0.0 else 1.0, relative, unit
    cdef char* to = row_address(&batch.grad, row) + first * batch.grad.class_stride
    cdef bint in_place = (batch.softcap == 0.0 and batch.grad.storage == native_storage(tag)
                          and lies_side_by_side(&batch.grad))
    cdef real* grad = <real*> to if in_place else <real*> work.grad
    cdef const real* u
    cdef bint known = batch.mask.data != NULL or not are_moderate(<real> shard.own_maximum[row],
                                                                   <real> shard.own_maximum[row])
    if block.active[i]:
        window.logits.data = row_address(&batch.logits, row) + first * batch.logits.class_stride
        window.mask.data = row_address(&batch.mask, row) + first * batch.mask.class_stride if batch.mask.data else NULL
        window.logits.inner = window.mask.inner = 1
        if not lies_side_by_side(&batch.logits):
            copy_strided(window.logits.data, batch.logits.class_stride, <char*> work.stored,
                         storage_size(batch.logits.storage), storage_size(batch.logits.storage), count)
            window.logits.data = <char*> work.stored
            window.logits.class_stride = storage_size(batch.logits.storage)
        u = logits_chunk(&window, 0, 0, count, <real*> work.u, <real*> work.slope)
        find_shard_exponentials(u, count, known, block.maximum[i], work, &relative, &unit)
        scale(<const real*> work.e, block.softmax_coefficient[i] * block.row_scale[i] * chain, relative, unit, grad,
              count)
        if shard.soft_weight:
            add_soft_targets(shard, first, count, -block.factor[i] * spread_of(batch, shard, row) * chain, work, grad)
        if block.label[i] >= 0 and 0 <= label < count:
            write(grad + label, <real> (block.grad_at_label[i] * chain))
        if batch.softcap != 0.0:
            chain_rule(&window, u, <const real*> work.slope, count, grad, NULL)
        if batch.mask.data != NULL:
            clear_masked(&window, 0, 0, count, grad, 1)
    else:
        memset(grad, 0, count * sizeof(real))
    if in_place:
        return
    if lies_side_by_side(&batch.grad):
        narrow(<const real*> grad, to, batch.grad.storage, count)
        return
    narrow(<const real*> grad, <char*> work.stored, batch.grad.storage, count)
    copy_strided(<const char*> work.stored, size, to, batch.grad.class_stride, size, count)


cdef void write_shard(const Batch* batch, const Shard* shard, Py_ssize_t row, Py_ssize_t rows, const RowBlock* block,
                      ShardWork* work, real tag) noexcept nogil:
    cdef Py_ssize_t most = CHUNK if lies_side_by_side(&batch.logits) else CHUNK_OF_PLANES, first = 0, count, i
    while first < shard.width:
        count = min_size(most, shard.width - first)
        for i in range(rows):
            write_shard_chunk(batch, shard, row + i, first, count, block, i, work, tag)
        first += count


cdef int run_shard(const Batch* batch, const Shard* shard, Py_ssize_t start, Py_ssize_t stop,
                   real tag) noexcept nogil:
    # Rows [start, stop): their losses, or a shard's gradient, or both.
    cdef RowBlock block
    cdef ShardWork work
    cdef Py_ssize_t row = start, rows, padded = CHUNK * sizeof(double) + 64
    cdef bint wants_values = batch.loss != NULL, wants_grad = batch.grad.data != NULL
    cdef int status = OK
    cdef double total = 0.0
    cdef char* memory = <char*> malloc(8 * padded + 64)
    if memory == NULL:
        return NO_MEMORY
    work.stored = memory + (64 - <size_t> memory % 64)
    work.u = <char*> work.stored + padded
    work.slope = <char*> work.u + padded
    work.e = <char*> work.slope + padded
    work.t = <char*> work.e + padded
    work.grad = <char*> work.t + padded
    work.maxima = <char*> work.grad + padded
    work.sums = <char*> work.maxima + padded
    begin_batch(batch, &block)
    while row < stop:
        rows = min_size(BLOCK_ROWS, stop - row)
        status = begin_shard_rows(batch, shard, row, rows, &block)
        if status != OK:
            break
        finish_rows(batch, &block, rows, NULL, wants_values or gradient_needs_logarithm(batch), wants_grad)
        if wants_values:
            end_rows(batch, row, rows, &block, False, <double> 0, &total)
        if wants_grad:
            write_shard(batch, shard, row, rows, &block, &work, tag)
        row += rows
    free(memory)
    return status
