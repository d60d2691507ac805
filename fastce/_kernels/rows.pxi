# The numbers of a block of rows: initialised from the batch, and written as losses.
# Needs labels.pxi.

cdef void begin_batch(const Batch* batch, RowBlock* block) noexcept nogil:
    # Sets the numbers that are the same for all rows.
    cdef Py_ssize_t i
    memset(block, 0, sizeof(block[0]))
    for i in range(BLOCK_ROWS):
        block.label[i] = -1
        if batch.labels.data != NULL:
            block.hard_mass[i] = 1.0 - batch.label_smoothing
        block.weight[i] = 1.0
        block.factor[i] = batch.scale
        block.active[i] = True
    block.all_active = block.all_places_active = block.has_default_scalars = True


cdef int begin_rows(const Batch* batch, Py_ssize_t first, Py_ssize_t rows, const long long* labels_of_run,
                    bint any_ignored, RowBlock* block) noexcept nogil:
    # Sets the numbers of a block of rows that do not depend on the logits. `labels_of_run` are its labels if they have
    # been loaded already, and `any_ignored` tells whether some rows of their run are ignored.
    cdef bint unweighted = batch.sample_weight.data == NULL and batch.grad_output.data == NULL
    cdef vec[double] zero = splat(0.0), scale = splat(batch.scale), weight
    cdef mask[double] unused, any_unused = less(zero, zero)
    cdef Py_ssize_t i
    cdef long long label
    if labels_of_run != NULL:
        memcpy(&block.label[0], labels_of_run, rows * sizeof(long long))
    elif batch.labels.data != NULL and not try_load_labels(batch, first, rows, &block.label[0], &any_ignored):
        for i in range(rows):
            if read_label(&batch.labels, first + i, batch.classes, &label) != OK:
                return BAD_LABEL
            block.label[i] = label
            any_ignored = any_ignored or label < 0
    if batch.class_weight and batch.labels.data != NULL:
        for i in range(rows):
            label = block.label[i]
            if label >= 0:
                block.hard_mass[i] = batch.class_weight[label] * (1.0 - batch.label_smoothing)
    block.all_active = True
    if not any_ignored and unweighted and block.has_default_scalars:
        return OK
    read_scalars(&batch.sample_weight, first, rows, &block.weight[0])
    read_scalars(&batch.grad_output, first, rows, &block.factor[0])
    for i in range(rows if any_ignored else 0):  # a weight of 0 if the label is negative
        (<long long*> &block.weight[0])[i] &= ~(block.label[i] >> 63)
    i = 0
    while i < rows:
        weight = load(&block.weight[i])
        unused = equal(weight, zero)
        any_unused = any_unused | unused
        # Not just weight * scale: the scale is NaN if no row counts.
        store(&block.factor[i], zero_where(unused, weight * scale * load(&block.factor[i])))
        # Left over from an earlier row, which may have been infinite or NaN.
        store(&block.soft_at_target[i], zero_where(unused, load(&block.soft_at_target[i])))
        i += lanes(<double> 0)
    block.all_active = not any(any_unused)
    if not (block.all_active and block.all_places_active):
        for i in range(rows):
            block.active[i] = block.weight[i] != 0.0
            block.label[i] = block.label[i] if block.weight[i] != 0.0 else -1
        # A short block does not change the places after its last row.
        block.all_places_active = block.all_active and rows == BLOCK_ROWS
    block.has_default_scalars = block.all_active and unweighted and rows == BLOCK_ROWS
    return OK


cdef inline void write_rows(double* to, Py_ssize_t first, Py_ssize_t rows,
                            const double* numbers) noexcept nogil:
    if to:
        memcpy(to + first, numbers, rows * sizeof(double))


cdef void write_narrowed(const double* numbers, const double* weights, Py_ssize_t rows, real* to) noexcept nogil:
    # Numbers of rows, times their weights if there are any, in the working precision.
    cdef wide_vec[real] wide
    cdef Py_ssize_t i = 0
    cdef int k
    while i < rows:
        for k in range(wide.parts):
            wide.part[k] = load(numbers + i + k * lanes(<double> 0))
            if weights != NULL:
                wide.part[k] = wide.part[k] * load(weights + i + k * lanes(<double> 0))
        store_first(to + i, min_size(rows - i, lanes(<real> 0)), narrow_lanes(wide))
        i += lanes(<real> 0)


cdef void end_rows(const Batch* batch, Py_ssize_t first, Py_ssize_t rows, const RowBlock* block,
                   bint one_by_one, real precision, double* total) noexcept nogil:
    # Writes the losses of a block, or adds them up: in vectors, or one by one, so that the sum does not depend on where
    # a block begins.
    cdef Py_ssize_t i
    cdef double last = 0.0
    cdef vec[double] sum = splat(0.0)
    if batch.loss:
        write_narrowed(&block.value[0], &block.weight[0], rows, <real*> batch.loss + first)
    elif one_by_one:
        for i in range(rows):
            total[0] += block.value[i] * block.weight[i]
    else:
        i = 0
        while i + lanes(<double> 0) <= rows:
            sum = fma(load(&block.value[i]), load(&block.weight[i]), sum)
            i += lanes(<double> 0)
        while i < rows:
            last += block.value[i] * block.weight[i]
            i += 1
        total[0] += reduce_add(sum) + last
    if batch.log_sum_exp:
        write_narrowed(&block.log_sum_exp[0], NULL, rows, <real*> batch.log_sum_exp + first)
    write_rows(batch.maximum, first, rows, &block.maximum[0])
    write_rows(batch.others, first, rows, &block.sum_without_pivot[0])
    write_rows(batch.target_logit, first, rows, &block.target_logit[0])
    write_rows(batch.soft_gap, first, rows, &block.soft_gap[0])
