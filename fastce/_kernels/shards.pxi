# Rows whose classes are spread over shards: from what is known of whole rows to their losses, and to the gradient
# of the classes that one shard holds. Needs formulas.pxi, packing.pxi, run_passes.pxi, chunks.pxi.

cdef enum:
    # Where the classes are not contiguous, as many rows as fill a line of cache are taken together, so many of their
    # classes at a time: one line each, which is read and written once.
    ROWS_TOGETHER = 16
    CLASSES_AT_ONCE = 256
    PITCH = CLASSES_AT_ONCE * 8 + 64  # bytes from one row to the next: lines of several rows do not meet in the cache

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
    char* together    # rows that do not lie as rows, PITCH apart, on their way in and out
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


cdef void find_shard_exponentials(const real* u, Py_ssize_t count, bint known, double row_maximum,
                                  const char* logits, int storage, ShardWork* work, double* relative,
                                  double* unit) noexcept nogil:
    # e_j = unit * exp(u_j - m) / relative, in work.e, with the maximum m of the whole row: of moderate logits, as
    # which any may be tried, as they are, of others relative to their own maximum. It is the chunk that decides,
    # whatever is known before: bits do not depend on neighbours.
    cdef real* e = <real*> work.e
    cdef real* maxima = <real*> work.maxima
    cdef real* sums = <real*> work.sums
    cdef real lowest = 0, highest = 0
    cdef bint is_moderate = row_maximum < LARGEST_REFERENCE
    cdef double reference = 0.0
    cdef Ahead ahead
    cdef Moderate moderate
    cdef AnySize any_size
    memset(&ahead, 0, sizeof(ahead))
    ahead.logits_size = storage_size(storage)
    ahead.logits = logits + CHUNK * ahead.logits_size  # of this row or the next one
    unit[0] = moderate_unit(highest)
    if known or not is_moderate:
        highest = maximum_of(u, count, maxima, &lowest)
        is_moderate = is_moderate and are_moderate(lowest, highest)
    if is_moderate:
        exponentials(u, count, e, maxima, sums, &lowest, &highest, &ahead, moderate)
        is_moderate = are_moderate(lowest, highest)
    if not is_moderate:
        highest = highest if highest > -INFINITY else 0  # nothing is relative to no finite logit
        reference = highest
        unit[0] = 1.0 / lowering(highest)
        exponentials(u, count, e, maxima, sums, &lowest, &highest, &ahead, any_size)
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
                            Py_ssize_t count, const char* logits, char* to, const RowBlock* block, Py_ssize_t i,
                            ShardWork* work, real tag) noexcept nogil:
    # The gradient of `count` of the shard's classes from `first`, of one row. Logits and gradient may be one.
    cdef Batch window = batch[0]  # of which these classes are the whole first row
    cdef Py_ssize_t label = block.label[i] - shard.first_class - first
    cdef bint is_native = batch.grad.storage == native_storage(tag)
    cdef real* grad = <real*> to if is_native and batch.softcap == 0.0 and not batch.streams else <real*> work.grad
    cdef double chain = batch.logit_scale if batch.softcap == 0.0 else 1.0, relative, unit
    cdef real own_maximum = <real> shard.own_maximum[row]
    cdef bint known = batch.mask.data != NULL or not are_moderate(own_maximum, own_maximum)
    cdef const real* u
    window.logits.data = <char*> logits
    window.logits.class_stride = storage_size(batch.logits.storage)
    window.logits.inner = window.mask.inner = 1
    if batch.mask.data != NULL:
        window.mask.data = row_address(&batch.mask, row) + first * batch.mask.class_stride
    if block.active[i]:
        u = logits_chunk(&window, 0, 0, count, <real*> work.u, <real*> work.slope)
        find_shard_exponentials(u, count, known, block.maximum[i], logits, batch.logits.storage, work, &relative, &unit)
        scale(<const real*> work.e, block.softmax_coefficient[i] * block.row_scale[i] * chain, relative, unit, grad,
              count)
        if shard.soft_weight:
            add_soft_targets(shard, first, count, -block.factor[i] * spread_of(batch, shard, row) * chain, work, grad)
        if 0 <= label < count:
            write(grad + label, <real> (block.grad_at_label[i] * chain))
        if batch.softcap != 0.0:
            chain_rule(&window, u, <const real*> work.slope, count, grad, NULL)
        if batch.mask.data != NULL:
            clear_masked(&window, 0, 0, count, grad, 1)
    else:
        memset(grad, 0, count * sizeof(real))
    if is_native and batch.streams:
        stream(<real*> to, <const real*> grad, 0, count, False)
    elif <char*> grad != to:
        narrow(<const real*> grad, to, batch.grad.storage, count)


cdef void write_shard_rows(const Batch* batch, const Shard* shard, Py_ssize_t row, Py_ssize_t rows,
                           const RowBlock* block, ShardWork* work, real tag) noexcept nogil:
    # Of rows that lie as rows.
    cdef Py_ssize_t logits_size = batch.logits.class_stride, size = batch.grad.class_stride, first, count, i
    cdef const char* logits
    cdef char* to
    for i in range(rows):
        logits = row_address(&batch.logits, row + i)
        to = row_address(&batch.grad, row + i)
        first = 0
        while first < shard.width:
            count = min_size(CHUNK, shard.width - first)
            write_shard_chunk(batch, shard, row + i, first, count, logits + first * logits_size, to + first * size,
                              block, i, work, tag)
            first += count


cdef void write_shard_together(const Batch* batch, const Shard* shard, Py_ssize_t row, Py_ssize_t rows,
                               const RowBlock* block, ShardWork* work, real tag) noexcept nogil:
    # Of rows that lie otherwise, by way of scratch.
    cdef Py_ssize_t logits_size = storage_size(batch.logits.storage), size = storage_size(batch.grad.storage)
    cdef Py_ssize_t i = 0, together, first, count, j, k
    cdef const char* logits
    cdef char* to
    while i < rows:
        together = min_size(ROWS_TOGETHER, rows - i)
        together = side_by_side(&batch.logits, row + i, together)
        together = side_by_side(&batch.grad, row + i, together)
        logits = row_address(&batch.logits, row + i)
        to = row_address(&batch.grad, row + i)
        first = 0
        while first < shard.width:
            count = min_size(CLASSES_AT_ONCE, shard.width - first)
            for j in range(count):
                copy_strided(logits + (first + j) * batch.logits.class_stride, batch.logits.row_stride,
                             work.together + j * logits_size, PITCH, logits_size, together)
            for k in range(together):
                write_shard_chunk(batch, shard, row + i + k, first, count, work.together + k * PITCH,
                                  work.together + k * PITCH, block, i + k, work, tag)
            for j in range(count):
                copy_strided(work.together + j * size, PITCH, to + (first + j) * batch.grad.class_stride,
                             batch.grad.row_stride, size, together)
            first += count
        i += together


cdef int run_shard(const Batch* batch, const Shard* shard, Py_ssize_t start, Py_ssize_t stop,
                   real tag) noexcept nogil:
    # Rows [start, stop): their losses, or a shard's gradient, or both.
    cdef RowBlock block
    cdef ShardWork work
    cdef Py_ssize_t row = start, rows, padded = CHUNK * sizeof(double) + 64
    cdef bint as_rows = is_row(&batch.logits) and is_row(&batch.grad)
    cdef bint wants_values = batch.loss != NULL, wants_grad = batch.grad.data != NULL
    cdef int status = OK
    cdef double total = 0.0
    cdef char* memory = <char*> malloc(7 * padded + ROWS_TOGETHER * PITCH + 64)
    if memory == NULL:
        return NO_MEMORY
    work.u = memory + (64 - <size_t> memory % 64)
    work.slope = <char*> work.u + padded
    work.e = <char*> work.slope + padded
    work.t = <char*> work.e + padded
    work.grad = <char*> work.t + padded
    work.maxima = <char*> work.grad + padded
    work.sums = <char*> work.maxima + padded
    work.together = <char*> work.sums + padded
    begin_batch(batch, &block)
    while row < stop:
        rows = min_size(BLOCK_ROWS, stop - row)
        status = begin_shard_rows(batch, shard, row, rows, &block)
        if status != OK:
            break
        finish_rows(batch, &block, rows, NULL, wants_values or gradient_needs_logarithm(batch), wants_grad)
        if wants_values:
            end_rows(batch, row, rows, &block, False, <double> 0, &total)
        if wants_grad and as_rows:
            write_shard_rows(batch, shard, row, rows, &block, &work, tag)
        elif wants_grad:
            write_shard_together(batch, shard, row, rows, &block, &work, tag)
        row += rows
    if batch.streams:
        end_streams()
    free(memory)
    return status
