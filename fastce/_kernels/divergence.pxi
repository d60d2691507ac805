# KL divergence of the softmax of two arrays of logits: blocks of rows, and how memory of any layout fills and empties
# them.
# Needs rows.pxi, packing.pxi, scratch.pxi, divergence_rows.pxi, divergence_shards.pxi.

cdef enum:
    DIVERGENCE_ELEMENTS = 2048  # of a block of rows


cdef struct Divergence:
    # Scratch of one call, and the numbers of a block of rows.
    Scratch fill             # with which memory of any layout fills and empties rows
    Py_ssize_t rows          # of a block at most
    Py_ssize_t pitch         # elements from one row to the next in scratch
    void* student            # logits of a block that cannot be read in place
    void* teacher
    void* weights            # a_j
    void* changes            # c_j, overwritten by the gradient
    void* exps               # for the Hessian: exp(z_j / T), overwritten by it
    RowSums sums[BLOCK_ROWS]
    bint excludes[BLOCK_ROWS]     # whether the student excludes a class that the teacher does not


cdef inline bint has_rows_in_place(const Matrix* matrix, bint plain, real tag) noexcept nogil:
    return (matrix.data != NULL and plain and matrix.storage == native_storage(tag)
            and matrix.class_stride == <Py_ssize_t> sizeof(real))


cdef char* divide_divergence(const Batch* batch, Divergence* d, char* memory, real tag) noexcept nogil:
    # Assigns memory to each part of scratch, and returns the end of the last one.
    cdef Py_ssize_t size = sizeof(real), elements = d.rows * d.pitch * size
    cdef bint plain = batch.mask.data == NULL
    if not has_rows_in_place(&batch.logits, plain, tag):
        d.student = part(&memory, elements)
    if not has_rows_in_place(&batch.probabilities, plain, tag):
        d.teacher = part(&memory, elements)
    d.weights = part(&memory, elements)
    d.changes = part(&memory, elements)
    if batch.hess.data != NULL:
        d.exps = part(&memory, elements)
    if not plain:
        d.fill.mask = <unsigned char*> part(&memory, d.rows * d.fill.classes)
    d.fill.stage = part(&memory, d.rows * d.fill.classes * 8)
    return memory


cdef int begin_divergence(const Batch* batch, Divergence* d, Py_ssize_t rows, real tag) noexcept nogil:
    cdef int width = lanes(tag)
    memset(d, 0, sizeof(d[0]))
    d.fill.classes = batch.classes
    d.fill.class_apart = 1
    d.fill.row_apart = batch.classes
    d.pitch = (batch.classes + width - 1) // width * width
    d.rows = max_size(DIVERGENCE_ELEMENTS // max_size(d.pitch, 1), 1)
    if is_plane(&batch.logits) or is_plane(&batch.probabilities) or is_plane(&batch.grad):
        d.rows = max_size(d.rows, cache_line // <Py_ssize_t> sizeof(real))  # whole cache lines of neighbouring rows
    d.rows = min_size(d.rows, BLOCK_ROWS)
    d.fill.memory = <char*> malloc(<size_t> divide_divergence(batch, d, NULL, tag) + 64)
    if d.fill.memory == NULL:
        return NO_MEMORY
    divide_divergence(batch, d, d.fill.memory + (64 - <size_t> d.fill.memory % 64), tag)
    return OK


cdef void mask_rows(const Divergence* d, Py_ssize_t count, real* u) noexcept nogil:
    cdef Py_ssize_t j = 0
    while j < count:
        store(u + j, select(load_mask(d.fill.mask + j, <real> 0), load(<const real*> u + j), splat(<real> -INFINITY)))
        j += lanes(<real> 0)


cdef const char* logits_of_block(const Divergence* d, const Matrix* matrix, void* scratch, Py_ssize_t row,
                                 Py_ssize_t rows, Py_ssize_t* stride, real tag) noexcept nogil:
    # The logits of a block, masked, in place or in scratch, with `stride` bytes from one row to the next.
    if scratch == NULL:
        stride[0] = matrix.row_stride
        return row_address(matrix, row)
    fill_scratch(&d.fill, matrix, row, rows, <real*> scratch)
    if d.fill.mask != NULL:
        mask_rows(d, rows * d.fill.classes, <real*> scratch)
    stride[0] = d.fill.classes * sizeof(real)
    return <const char*> scratch


cdef int do_divergence(const Batch* batch, Divergence* d, Py_ssize_t row, Py_ssize_t rows, RowBlock* block, real tag,
                       double* total) noexcept nogil:
    cdef Py_ssize_t size = sizeof(real), classes = batch.classes, pitch = d.pitch, z_stride, t_stride, i
    cdef Py_ssize_t z_ahead, t_ahead
    cdef double temperature = batch.temperature, inverse_temperature = 1.0 / batch.temperature, factor
    cdef const char* z
    cdef const char* t
    cdef real* a = <real*> d.weights
    cdef real* c = <real*> d.changes
    cdef real* e = <real*> d.exps
    cdef real* grad
    cdef const unsigned char* kept
    cdef bint wants_grad = batch.grad.data != NULL, wants_hess = batch.hess.data != NULL
    cdef bint direct = has_rows_in_place(&batch.grad, not batch.streams, tag)
    cdef PairExtremes extremes[BLOCK_ROWS]
    cdef double whole[SUMMARY]
    cdef int status = begin_rows(batch, row, rows, NULL, False, block)
    if status != OK:
        return status
    if d.fill.mask != NULL:
        fill_mask(&d.fill, &batch.mask, row, rows)
    z = logits_of_block(d, &batch.logits, d.student, row, rows, &z_stride, tag)
    t = logits_of_block(d, &batch.probabilities, d.teacher, row, rows, &t_stride, tag)
    # Rows that are read in place are prefetched while the rows before them are computed.
    z_ahead = rows * z_stride if d.student == NULL else 0
    t_ahead = rows * t_stride if d.teacher == NULL else 0
    for i in range(rows):
        d.excludes[i] = False
        if not block.active[i]:
            continue
        if batch.whole_rows != NULL:
            read_summary(batch, row + i, &whole[0])
            changes_of_shard(<const real*> (z + i * z_stride), <const real*> (t + i * t_stride), classes, &whole[0],
                             temperature, a + i * pitch, c + i * pitch, &d.sums[i])
            block.value[i] = whole[PART_DIVERGENCE] if has_both(&whole[0]) else NAN
            continue
        extremes[i] = begin_row(<const real*> (z + i * z_stride), <const real*> (t + i * t_stride), classes,
                                inverse_temperature, a + i * pitch, &d.sums[i].weights)
        if not (are_near(&extremes[i], inverse_temperature, tag) and changes_of_near_row(
                <const real*> (z + i * z_stride), <const real*> (t + i * t_stride), classes, &extremes[i],
                temperature, a + i * pitch, c + i * pitch, &d.sums[i], z + i * z_stride + z_ahead)):
            changes_of_far_row(<const real*> (z + i * z_stride), <const real*> (t + i * t_stride), classes,
                               &extremes[i], temperature, a + i * pitch, c + i * pitch, &d.sums[i], &d.excludes[i])
        block.value[i] = divergence_of(&d.sums[i])
        if d.excludes[i] and d.sums[i].changes == d.sums[i].changes:
            block.value[i] = INFINITY
        if batch.summaries != NULL:
            summarise_row(<const real*> (z + i * z_stride), <const real*> (t + i * t_stride), classes, &extremes[i],
                          &d.sums[i], block.value[i], inverse_temperature, a + i * pitch, &whole[0])
            write_summary(batch, row + i, &whole[0])
        # Before the gradient, which may overwrite the logits.
        if wants_hess:
            kept = d.fill.mask + i * classes if d.fill.mask != NULL else NULL
            factor = block.factor[i] + 0.0 * (d.sums[i].changes / d.sums[i].weights)  # NaN if the row has no softmax
            hessian_of_row(<const real*> (z + i * z_stride), classes, &extremes[i], inverse_temperature, factor, kept,
                           e + i * pitch, e + i * classes)
    for i in range(rows):
        # Rows of scratch must be contiguous when they are emptied.
        grad = NULL
        if wants_grad:
            grad = <real*> row_address(&batch.grad, row + i) if direct else c + i * classes
        if block.active[i]:
            kept = d.fill.mask + i * classes if d.fill.mask != NULL else NULL
            if wants_grad:
                gradient_of_row(&d.sums[i], classes, <const real*> a + i * pitch, <const real*> c + i * pitch,
                                block.factor[i] * temperature, kept, t + i * t_stride + t_ahead, grad)
            block.value[i] = temperature * temperature * block.value[i]
        else:
            block.value[i] = 0.0
            if wants_grad:
                memset(grad, 0, classes * size)
            if wants_hess:
                memset(e + i * classes, 0, classes * size)
    if wants_grad and batch.streams and lies_as_scratch(&d.fill, &batch.grad, tag):
        stream(<real*> row_address(&batch.grad, row), <const real*> c, 0, rows * classes, False)
    elif wants_grad and not direct:
        empty_scratch(&d.fill, <const real*> c, &batch.grad, row, rows)
    if wants_hess:
        empty_scratch(&d.fill, <const real*> e, &batch.hess, row, rows)
    # One by one, so that the sum does not depend on where a block begins.
    end_rows(batch, row, rows, block, True, tag, total)
    return OK


cdef int run_divergence(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, real tag, double* total) noexcept nogil:
    # Computes rows [start, stop) of a batch, in which `probabilities` are the teacher's logits.
    cdef RowBlock block
    cdef Divergence d
    cdef Py_ssize_t row = start, rows
    cdef int status = begin_divergence(batch, &d, stop - start, tag)
    if status != OK:
        return status
    begin_batch(batch, &block)
    while row < stop and status == OK:
        rows = side_by_side(&batch.logits, row, min_size(d.rows, stop - row))
        rows = side_by_side(&batch.probabilities, row, rows)
        rows = side_by_side(&batch.grad, row, rows)
        rows = side_by_side(&batch.hess, row, rows)
        rows = side_by_side(&batch.mask, row, rows)
        status = do_divergence(batch, &d, row, rows, &block, tag, total)
        row += rows
    if batch.streams:
        end_streams()
    free(d.fill.memory)
    return status
