# Rows whose classes are split over shards: from merged summaries of whole rows to their losses, and to the gradient for
# the classes of one shard.
# Needs rows.pxi, formulas.pxi, run_passes.pxi, exponentials.pxi.

cdef enum:
    # If the classes are not contiguous, this many rows are processed together, and this many of their classes at a
    # time, because a cache line holds neighbouring rows.
    ROWS_TOGETHER = 64
    CLASSES_AT_ONCE = 256
    PITCH = CLASSES_AT_ONCE * 8 + 64  # bytes from one row to the next, so that rows do not share cache sets

# Above this, exp(-maximum) is not a normal number, although its product with an exponential may be one.
cdef double LARGEST_REFERENCE = 600.0


cdef struct Shard:
    # One number per whole row.
    const double* maximum
    const double* others
    const double* target_logit
    const double* soft_mass        # NULL without label smoothing
    const double* soft_gap
    const double* kept             # number of unmasked classes; NULL without a mask
    const double* soft_weight      # label_smoothing / K * weight of all classes, or NULL
    # The classes of this shard.
    const double* own_maximum      # of each row
    Py_ssize_t first_class
    Py_ssize_t width


cdef struct ShardWork:
    # Scratch of one call; every buffer has room for CHUNK elements and a cache line.
    void* u
    void* slope           # du/dz, if capped
    void* e
    void* t
    void* grad
    unsigned char* mask
    char* together        # rows that are not contiguous in memory, PITCH bytes apart, while they are read and written


cdef inline double smoothing_spread(const Batch* batch, const Shard* shard, Py_ssize_t row) noexcept nogil:
    # Label smoothing is spread over the unmasked classes, not over all.
    return <double> batch.classes / shard.kept[row] if shard.kept else 1.0


cdef int begin_shard_rows(const Batch* batch, const Shard* shard, Py_ssize_t first, Py_ssize_t rows,
                          RowBlock* block) noexcept nogil:
    # Sets the numbers of a block of whole rows that finish_rows needs.
    cdef Py_ssize_t i
    cdef double spread
    cdef int status = begin_rows(batch, first, rows, NULL, False, block)
    if status != OK:
        return status
    for i in range(rows):
        if not block.active[i]:  # gives a loss of 0 and a finite gradient, which is multiplied by 0
            block.maximum[i] = block.sum_without_pivot[i] = block.target_logit[i] = 0.0
            block.soft_mass[i] = block.soft_at_target[i] = block.soft_gap[i] = 0.0
            block.target_exp[i] = 1.0
            continue
        block.maximum[i] = shard.maximum[first + i]
        block.sum_without_pivot[i] = shard.others[first + i]
        block.target_logit[i] = shard.target_logit[first + i]
        block.target_exp[i] = exp(splat(block.target_logit[i] - block.maximum[i]))[0]
        if shard.soft_weight:
            spread = smoothing_spread(batch, shard, first + i)
            block.soft_mass[i] = shard.soft_mass[first + i] * spread
            block.soft_gap[i] = shard.soft_gap[first + i] * spread
            block.soft_at_target[i] = shard.soft_weight[block.label[i]] * spread
    return OK


cdef const real* shard_logits(const Batch* batch, const char* logits, const unsigned char* mask, Py_ssize_t count,
                              ShardWork* work, real tag) noexcept nogil:
    # The logits as they enter the softmax (scaled, capped, masked), in place or in scratch.
    cdef real* u = <real*> work.u
    cdef Py_ssize_t j = 0
    if (batch.logits.storage == native_storage(tag) and batch.logit_scale == 1.0 and batch.softcap == 0.0
            and mask == NULL):
        return <const real*> logits
    widen(logits, batch.logits.storage, u, count)
    if batch.softcap != 0.0:
        cap(<const real*> u, u, <real*> work.slope, count, batch.logit_scale, batch.softcap)
    elif batch.logit_scale != 1.0:
        multiply(<const real*> u, <real> batch.logit_scale, u, count)
    while mask != NULL and j < count:  # whole vectors: after the last class, mask and u are uninitialised and unused
        store(u + j, select(load_mask(mask + j, tag), load(<const real*> u + j), splat(<real> -INFINITY)))
        j += lanes(tag)
    return u


cdef void shard_exponentials(const real* u, Py_ssize_t count, double own_maximum, double row_maximum, bint holes,
                             const char* ahead, real* e, double* reference, double* unit) noexcept nogil:
    # e_j = unit * exp(u_j - reference). The reference is 0 for logits in exp's safe range, otherwise the maximum of the
    # shard's part of the row, or of the row if that part is all -inf.
    cdef real extremes[32]
    cdef bint in_range = (own_maximum <= safe_range_highest(<real> 0)
                          and safe_range_lowest(<real> 0) <= row_maximum <= LARGEST_REFERENCE)
    if in_range and not holes:
        begin_extremes(&extremes[0])
        exponentials_without_holes(u, count, e, ahead, <const char*> e, &extremes[0])
        holes = not are_in_range(&extremes[0])
    if in_range and holes:
        begin_extremes(&extremes[0])
        exponentials_with_holes(u, count, e, ahead, <const char*> e, &extremes[0])
        in_range = are_in_range(&extremes[0])
    reference[0] = 0.0
    unit[0] = safe_range_unit(<real> 0)
    if not in_range:
        row_out_of_range(u, count, <real> own_maximum, e)
        reference[0] = own_maximum if own_maximum > -INFINITY else row_maximum
        unit[0] = 1.0 / inverse_exp_scale(<real> 0)


cdef inline void pass_over(const real* x, const real* t, const vec[real]* c, Py_ssize_t count, real* to,
                           row_pass kind) noexcept nogil:
    # The pass Scaled or Smoothed over some classes of a row.
    cdef int width = lanes(<real> 0)
    cdef vec[real] t_j = splat(<real> 0)
    cdef Py_ssize_t j = 0
    while j + width <= count:
        if row_pass is Smoothed:
            t_j = load(t + j)
        store(to + j, passed(load(x + j), t_j, c, kind))
        j += width
    if j < count:
        if row_pass is Smoothed:
            t_j = load_first(t + j, count - j, <real> 0)
        store_first(to + j, count - j, passed(load_first(x + j, count - j, <real> 0), t_j, c, kind))


cdef void shard_gradient(const Batch* batch, const Shard* shard, Py_ssize_t row, Py_ssize_t first, Py_ssize_t count,
                         const char* logits, const RowBlock* block, Py_ssize_t i, ShardWork* work,
                         real* grad) noexcept nogil:
    # The gradient of a row that counts, for `count` of the shard's classes from `first` on. `grad` may be the logits.
    cdef double chain = batch.logit_scale if batch.softcap == 0.0 else 1.0
    cdef double plain = block.softmax_coefficient[i] * block.row_scale[i] * chain, reference, unit, relative, part
    cdef Py_ssize_t label = block.label[i] - shard.first_class - first, j = 0
    cdef const unsigned char* mask = NULL
    cdef const real* u
    cdef real* e = <real*> work.e
    cdef vec[real] c[2]
    cdef Scaled scaled
    cdef Smoothed smoothed
    if batch.mask.data != NULL:
        copy_bytes(row_address(&batch.mask, row) + first * batch.mask.class_stride, batch.mask.class_stride,
                   <char*> work.mask, count)
        mask = work.mask
    u = shard_logits(batch, logits, mask, count, work, <real> 0)
    # Prefetches the next chunk, of this row or the next.
    shard_exponentials(u, count, shard.own_maximum[row], block.maximum[i], mask != NULL,
                       logits + CHUNK * storage_size(batch.logits.storage), e, &reference, &unit)
    relative = exp(splat(reference - block.maximum[i]))[0]
    part = first_factor(plain * relative / unit, <real> 0)
    if part != 1.0 and plain != 0.0:  # the factor is not a normal number, but its parts are
        multiply(<const real*> e, <real> part, e, count)
        unit *= part
    c[0] = splat(<real> (plain / unit * relative))
    if shard.soft_weight:
        c[1] = splat(<real> (-block.factor[i] * smoothing_spread(batch, shard, row) * chain))
        widen(<const char*> (shard.soft_weight + shard.first_class + first), FLOAT64, <real*> work.t, count)
        pass_over(<const real*> e, <const real*> work.t, &c[0], count, grad, smoothed)
    else:
        pass_over(<const real*> e, <const real*> e, &c[0], count, grad, scaled)
    if 0 <= label < count:
        write(grad + label, <real> (block.grad_at_label[i] * chain))
    if batch.softcap != 0.0:
        chain_rule(batch, u, <const real*> work.slope, count, grad, NULL)
    while mask != NULL and j < count:  # in scratch, in whole vectors
        store(grad + j, zero_unless(load_mask(mask + j, <real> 0), load(<const real*> grad + j)))
        j += lanes(<real> 0)


cdef void write_shard_chunk(const Batch* batch, const Shard* shard, Py_ssize_t row, Py_ssize_t first,
                            Py_ssize_t count, const char* logits, char* to, const RowBlock* block, Py_ssize_t i,
                            ShardWork* work, real tag) noexcept nogil:
    cdef bint is_native = batch.grad.storage == native_storage(tag)
    cdef bint in_place = is_native and batch.softcap == 0.0 and batch.mask.data == NULL and not batch.streams
    cdef real* grad = <real*> to if in_place else <real*> work.grad
    if block.active[i]:
        shard_gradient(batch, shard, row, first, count, logits, block, i, work, grad)
    else:
        memset(grad, 0, count * sizeof(real))
    if is_native and batch.streams:
        stream(<real*> to, <const real*> grad, 0, count, False)
    elif not in_place:
        narrow(<const real*> grad, to, batch.grad.storage, count)


cdef void write_shard_rows(const Batch* batch, const Shard* shard, Py_ssize_t row, Py_ssize_t rows,
                           const RowBlock* block, ShardWork* work, real tag) noexcept nogil:
    # For rows that are contiguous.
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
    # For rows that are not contiguous; they pass through scratch.
    cdef Py_ssize_t logits_size = storage_size(batch.logits.storage), size = storage_size(batch.grad.storage)
    cdef Py_ssize_t logits_apart = batch.logits.class_stride, apart = batch.grad.class_stride
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
            if batch.logits.row_stride == logits_size == sizeof(real) and count >= quad(tag):
                to_rows(<const real*> logits, logits_apart // logits_size, together, count, work.together, PITCH)
            else:
                for j in range(count):
                    copy_strided(logits + j * logits_apart, batch.logits.row_stride, work.together + j * logits_size,
                                 PITCH, logits_size, together)
            for k in range(together):
                write_shard_chunk(batch, shard, row + i + k, first, count, work.together + k * PITCH,
                                  work.together + k * PITCH, block, i + k, work, tag)
            if batch.grad.row_stride == size == sizeof(real) and count >= quad(tag):
                from_rows(work.together, PITCH, together, count, <real*> to, apart // size)
            else:
                for j in range(count):
                    copy_strided(work.together + j * size, PITCH, to + j * apart, batch.grad.row_stride, size, together)
            logits += count * logits_apart
            to += count * apart
            first += count
        i += together


cdef int run_shard(const Batch* batch, const Shard* shard, Py_ssize_t start, Py_ssize_t stop,
                   real tag) noexcept nogil:
    # Computes the losses of rows [start, stop), or a shard's gradient, or both.
    cdef RowBlock block
    cdef ShardWork work
    cdef double ones[BLOCK_ROWS]  # the exponentials of the maxima, which all others are relative to
    cdef Py_ssize_t row = start, rows, i, padded = CHUNK * sizeof(double) + 64
    cdef bint as_rows = is_row(&batch.logits) and is_row(&batch.grad)
    cdef int status = OK
    cdef double total = 0.0
    cdef char* memory = <char*> malloc(6 * padded + ROWS_TOGETHER * PITCH + 64)
    if memory == NULL:
        return NO_MEMORY
    work.u = memory + (64 - <size_t> memory % 64)
    work.slope = <char*> work.u + padded
    work.e = <char*> work.slope + padded
    work.t = <char*> work.e + padded
    work.grad = <char*> work.t + padded
    work.mask = <unsigned char*> work.grad + padded
    work.together = <char*> work.mask + padded
    for i in range(BLOCK_ROWS):
        ones[i] = 1.0
    begin_batch(batch, &block)
    while row < stop:
        rows = min_size(BLOCK_ROWS, stop - row)
        status = begin_shard_rows(batch, shard, row, rows, &block)
        if status != OK:
            break
        # In double even for float32: merging may leave a sum that is a subnormal number.
        finish_rows(batch, &block, rows, &ones[0], True, True, batch.grad.data != NULL)
        if batch.loss != NULL:
            end_rows(batch, row, rows, &block, False, <double> 0, &total)
        if batch.grad.data != NULL and as_rows:
            write_shard_rows(batch, shard, row, rows, &block, &work, tag)
        elif batch.grad.data != NULL:
            write_shard_together(batch, shard, row, rows, &block, &work, tag)
        row += rows
    if batch.streams:
        end_streams()
    free(memory)
    return status
