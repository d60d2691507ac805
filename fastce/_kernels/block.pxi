# The block kernel: many rows at once, in scratch that fits the cache.
# Needs rows.pxi, formulas.pxi, coefficients.pxi, scratch.pxi, derivatives.pxi.
#
# A run of rows passes through three stages:
#   1. Its logits become exponentials. Logits in exp's safe range are used as they are, so an exponential does not
#      depend on the row that it belongs to. Rows out of range are computed again, relative to their maximum.
#   2. Each row is summed without one of its exponentials, the pivot, so that nothing cancels. The pivot is the target,
#      or the largest exponential if other classes also need the sum of all others. From these sums, finish_rows
#      computes the loss and the coefficients of the third stage.
#   3. Exponentials become derivatives, which are written to their arrays.
# Scratch is packed row by row or class by class (packing.pxi). The layout of memory decides only how scratch is filled
# and emptied.

cdef void fill_logits(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, real tag) noexcept nogil:
    # The logits as they enter the softmax (scaled, capped, masked), in place or in scratch.
    cdef real* u = <real*> s.u
    cdef const real* origin = u
    cdef const real* source
    cdef vec[real] x
    cdef real* slope = <real*> s.slope
    cdef Py_ssize_t segments = s.classes if s.by_classes else 1, count = rows if s.by_classes else rows * s.classes
    cdef Py_ssize_t size = sizeof(real), source_apart = s.class_apart, i, j
    if is_plain(batch) and lies_as_scratch(s, &batch.logits, tag):
        s.logits = row_address(&batch.logits, row)
        s.logits_class_apart = batch.logits.class_stride // size
        s.logits_row_apart = batch.logits.row_stride // size
        return
    s.logits = u
    s.logits_class_apart = s.class_apart
    s.logits_row_apart = s.row_apart
    if lies_as_scratch(s, &batch.logits, tag):  # the first operation below writes its result to scratch
        origin = <const real*> row_address(&batch.logits, row)
        source_apart = batch.logits.class_stride // size
    else:
        fill_scratch(s, &batch.logits, row, rows, u)
    if batch.mask.data != NULL:
        fill_mask(s, &batch.mask, row, rows)
    for i in range(segments):
        source = origin + i * source_apart
        if batch.softcap != 0.0:
            cap(source, u, slope, count, batch.logit_scale, batch.softcap)
            source = u
        elif batch.logit_scale != 1.0:
            multiply(source, <real> batch.logit_scale, u, count)
            source = u
        j = 0
        while batch.mask.data != NULL and j < count:
            prefetch(source + j + ROWS_AHEAD)
            x = load_rest(source + j, count - j, tag)
            # After the last row, the mask is uninitialised, and u is not read.
            store(u + j, select(load_mask(s.mask + i * s.class_apart + j, tag), x, splat(<real> -INFINITY)))
            j += lanes(tag)
        u += s.class_apart
        slope += s.class_apart


cdef void load_labels_of_run(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows,
                             real tag) noexcept nogil:
    # Loads labels, also as floating-point numbers to compare with class indices. A label that is out of range is
    # reported later, by its block.
    cdef real* label = <real*> s.row[LABEL]
    cdef real* pivot = <real*> s.row[PIVOT_CLASS]
    cdef Py_ssize_t first = 0, count, i
    cdef bint any_ignored = False
    s.pivot_class = label
    s.has_labels = batch.labels.data != NULL
    s.any_ignored = False
    while first < rows:
        count = min_size(BLOCK_ROWS, rows - first)
        if batch.labels.data == NULL or not try_load_labels(batch, row + first, count, s.labels + first, &any_ignored):
            s.has_labels = False
            for i in range(first, first + count):
                if (batch.labels.data == NULL
                        or read_label(&batch.labels, row + i, batch.classes, s.labels + i) != OK):
                    s.labels[i] = -1
        s.any_ignored |= any_ignored
        first += count
    for i in range(rows):
        label[i] = <real> s.labels[i]
    if s.any_ignored or not s.has_labels:  # any class can be the pivot if there is no label
        s.pivot_class = pivot
        for i in range(rows):
            pivot[i] = label[i] if label[i] >= 0 else 0


cdef inline void* offset(const void* numbers, Py_ssize_t count, real tag) noexcept nogil:
    return <void*> (<real*> numbers + count) if numbers != NULL else NULL


cdef inline void advance(Matrix* matrix, Py_ssize_t classes) noexcept nogil:
    matrix.data = matrix.data + classes * matrix.class_stride if matrix.data != NULL else NULL


cdef void set_part(const Batch* batch, const Scratch* s, Py_ssize_t first, Batch* part_batch, Scratch* part_scratch,
                   real tag) noexcept nogil:
    # A part of a run of planes: its classes from `first` on, which can be filled or written as a run by themselves.
    cdef Py_ssize_t scratch_first = first * s.class_apart
    part_batch[0] = batch[0]
    advance(&part_batch.logits, first)
    advance(&part_batch.mask, first)
    advance(&part_batch.grad, first)
    advance(&part_batch.hess, first)
    part_scratch[0] = s[0]
    part_scratch.first_class = first
    part_scratch.classes = min_size(s.part_classes, s.classes - first)
    part_scratch.u = offset(s.u, 0 if s.drops_logits else scratch_first, tag)
    part_scratch.slope = offset(s.slope, scratch_first, tag)
    part_scratch.mask = s.mask + scratch_first if s.mask != NULL else NULL
    part_scratch.logits = offset(s.logits, first * s.logits_class_apart, tag)
    part_scratch.targets = offset(s.targets, first * (s.t_apart if s.t_apart else 1), tag)


cdef void exponentials_by_classes(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, real* e,
                                  bint holes) noexcept nogil:
    # Stages 1 and 2, up to the sums of the rows.
    cdef real extremes[32]
    cdef const real* u = <const real*> s.logits
    cdef const char* ahead
    cdef const char* next_run = <const char*> s.logits if s.logits == s.u else row_address(&batch.logits, row + rows)
    cdef Py_ssize_t j = 0, k, stop, classes_ahead = max_size(PLANE_AHEAD // rows, 1)
    cdef Batch part_batch
    cdef Scratch part_scratch
    begin_extremes(&extremes[0])
    if s.classes == 0:  # an empty sum
        memset(s.sum_without_pivot, 0, rows * sizeof(double))
        memset(s.pivot_exp, 0, rows * sizeof(double))
    while j < s.classes:
        if s.fills_parts and j % s.part_classes == 0:
            set_part(batch, s, j, &part_batch, &part_scratch, <real> 0)
            fill_logits(&part_batch, &part_scratch, row, rows, <real> 0)
            u = <const real*> part_scratch.u
        stop = min_size(j + CLASSES_TOGETHER, s.classes)
        for k in range(j, stop):
            ahead = (<const char*> (u + classes_ahead * s.logits_class_apart) if k + classes_ahead < s.classes
                     else next_run + (k + classes_ahead - s.classes) * s.logits_class_apart * <Py_ssize_t> sizeof(real))
            if holes:
                exponentials_with_holes(u, rows, e + k * s.exps_apart, ahead, <const char*> (e + k * s.exps_apart),
                                        &extremes[0])
            else:
                exponentials_without_holes(u, rows, e + k * s.exps_apart, ahead,
                                           <const char*> (e + k * s.exps_apart), &extremes[0])
            u += s.logits_class_apart
        sum_classes(batch, s, <const real*> e, j, stop, rows)
        j = stop
    s.in_range = are_in_range(&extremes[0])


cdef void sum_classes(const Batch* batch, Scratch* s, const real* e, Py_ssize_t first, Py_ssize_t stop,
                      Py_ssize_t rows) noexcept nogil:
    # Adds some classes to the sums that the results of this call need.
    cdef bint exactly = batch.kind == FOCAL
    if s.needs_whole_sums:
        add_for_hessian(s, e, first, stop, rows, exactly)
    else:
        add_for_gradient(s, e, first, stop, rows, exactly, s.largest_pivot)


cdef void classes_out_of_range(const Batch* batch, Scratch* s, Py_ssize_t rows, real* e) noexcept nogil:
    # Corrects the rows of a run that are out of range, and the sums of all rows.
    cdef const real* u = <const real*> s.logits
    cdef Py_ssize_t i = 0, j = 0, stop, out = 0
    memcpy(s.row[PIVOT_CLASS], s.pivot_class, rows * sizeof(real))
    s.pivot_class = s.row[PIVOT_CLASS]
    while i < rows:
        out += vector_out_of_range(s, u + i, e + i, rows - i, <real*> s.row[PIVOT_CLASS] + i, s.mostly_out)
        i += lanes(<real> 0)
    s.some_out = out > 0
    s.mostly_out = 2 * out * lanes(<real> 0) > rows
    while j < s.classes:
        stop = min_size(j + CLASSES_TOGETHER, s.classes)
        sum_classes(batch, s, <const real*> e, j, stop, rows)
        j = stop


cdef void largest_logits(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, real tag) noexcept nogil:
    # The largest logit of each row of a run packed class by class, and the first class that has it.
    cdef const real* u = <const real*> s.logits
    cdef real* reference = <real*> s.row[REFERENCE]
    cdef vec[real] highest, x, argmax, this_class, one = splat(<real> 1)
    cdef real classes[16]
    cdef Py_ssize_t i = 0, j
    cdef mask[real] is_higher
    while i < rows:
        highest = splat(<real> -INFINITY)
        argmax = this_class = splat(<real> 0)
        for j in range(s.classes):
            x = load_rest(u + j * s.logits_class_apart + i, rows - i, <real> 0)
            is_higher = less(highest, x)
            argmax = select(is_higher, this_class, argmax)
            highest = max(x, highest)
            this_class = this_class + one
        store(reference + i, highest)
        if batch.argmax != NULL:
            store(&classes[0], argmax)
            for j in range(min_size(lanes(tag), rows - i)):
                write(batch.argmax + row + i + j, <long long> classes[j])
        i += lanes(tag)


cdef int finish_block(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t first, Py_ssize_t rows,
                      RowBlock* block, real* e, double* total) noexcept nogil:
    # Stage 2 for the rows of a run from `first` on.
    cdef bint only_sum = wants_only_their_sum(batch), wants_grad = batch.grad.data != NULL
    cdef Py_ssize_t i
    cdef int status = begin_rows(batch, row + first, rows, s.labels + first if s.has_labels else NULL,
                                 s.any_ignored, block)
    if status != OK:
        return status
    s.all_active = s.all_active and block.all_active
    if s.by_classes:
        find_pivots_by_classes(batch, s, first, rows, block, <const real*> e)
    else:
        find_pivots_by_rows(batch, s, row + first, rows, block, e)
    if s.statistics != NULL:
        write_statistics(batch, s, row + first, first, rows, block, e)
    if is_soft(batch):
        find_soft_sums(batch, s, first, rows, block, <real> 0)
    if real is double or s.exact:
        take_units_out(batch, s, first, rows, block, <real> 0)
    finish_rows(batch, block, rows, s.pivot_exp + first, real is double, not only_sum, wants_grad)
    if wants_grad:
        set_coefficients(batch, s, first, rows, block, e)
    if only_sum:
        total[0] += sum_of_losses(block, s.pivot_exp + first, rows, not s.zero_logits, real is double)
    else:
        if batch.others:
            for i in range(rows):
                # In a row without exponentials this is -1, one less than if the only exponential is its maximum. The
                # sum, which is not NaN, distinguishes such a row from one of NaN only.
                block.sum_without_pivot[i] = (-1.0 if block.maximum[i] == -INFINITY and s.pivot_exp[first + i] == 0.0
                                              and block.sum_without_pivot[i] == 0.0
                                              else block.sum_without_pivot[i] / s.pivot_exp[first + i])
        end_rows(batch, row + first, rows, block, batch.classes > SHORT_ROW, <real> 0, total)
    return OK


cdef void begin_run(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, real* e, real tag) noexcept nogil:
    # Stage 1 of a run, except for rows out of range. It starts from what the previous run found: if most rows were out
    # of range, it computes no exponentials; if some were, it allows for holes, which would be its next attempt anyway.
    cdef real extremes[32]
    cdef const char* ahead = <const char*> s.logits + ROWS_AHEAD * sizeof(real)
    cdef const char* to = <const char*> e
    cdef bint some_were_out = s.some_out
    if batch.grad.data != NULL and lies_as_scratch(s, &batch.grad, tag) and not s.streams:
        to = row_address(&batch.grad, row)
    if s.logits == s.u:  # read from scratch: prefetch the logits of the next run from memory
        ahead = row_address(&batch.logits, row + rows)
    s.to_be_written = to
    s.holes = s.expects_holes or some_were_out
    s.in_range = s.some_out = s.none_low = False
    s.no_exponentials = s.mostly_out
    while not s.mostly_out:
        if s.by_classes:
            exponentials_by_classes(batch, s, row, rows, e, s.holes)
        else:
            begin_extremes(&extremes[0])
            if s.holes:
                exponentials_with_holes(<const real*> s.logits, rows * s.classes, e, ahead, to, &extremes[0])
            else:
                exponentials_without_holes(<const real*> s.logits, rows * s.classes, e, ahead, to, &extremes[0])
            s.in_range = are_in_range(&extremes[0])
            s.none_low = -reduce_max(-load(<const real*> &extremes[0])) >= safe_range_lowest(tag)
        if s.in_range or s.holes:
            break
        s.holes = True
    s.expects_holes = s.holes and s.in_range and not some_were_out


cdef int do_run(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, RowBlock* block, real tag,
                double* total) noexcept nogil:
    cdef real* e = <real*> s.e
    cdef Py_ssize_t first = 0
    cdef int status = OK
    cdef Batch part_batch
    cdef Scratch part_scratch
    s.run_rows = rows
    s.exps_apart = s.class_apart
    if s.fills_parts:
        s.logits = s.u
        s.logits_class_apart = s.class_apart
        s.logits_row_apart = s.row_apart
    if not s.fills_parts or s.mostly_out:
        fill_logits(batch, s, row, rows, tag)
    if s.in_gradient and (not s.by_classes or rows % lanes(tag) == 0):
        e = <real*> row_address(&batch.grad, row)
        s.exps_apart = batch.grad.class_stride // <Py_ssize_t> sizeof(real)
    s.targets = s.t
    if is_soft(batch) and s.weight != NULL:
        s.t_apart = s.class_apart
        if takes_probabilities_as_they_lie(batch, s, tag) and rows % lanes(tag) == 0:
            s.targets = row_address(&batch.probabilities, row)
            s.t_apart = batch.probabilities.class_stride // <Py_ssize_t> sizeof(real)
        else:
            find_targets(batch, s, row, rows, tag)
    s.all_active = True
    if s.by_classes:
        load_labels_of_run(batch, s, row, rows, tag)
    if not s.is_long:
        begin_run(batch, s, row, rows, e, tag)
    if s.by_classes:
        if s.drops_logits and (s.holes or not s.in_range):
            fill_logits(batch, s, row, rows, tag)
        if not s.in_range or (s.holes and not s.largest_pivot):
            classes_out_of_range(batch, s, rows, e)
        if s.largest_pivot:
            largest_logits(batch, s, row, rows, tag)
    while first < rows and status == OK:
        status = finish_block(batch, s, row, first, min_size(BLOCK_ROWS, rows - first), block, e, total)
        first += BLOCK_ROWS
    if s.by_classes and s.needs_whole_sums and status == OK:
        mend_hessian_by_classes(s, rows, <const real*> e)
    if batch.grad.data == NULL or status != OK:
        return status
    if s.part_classes == s.classes:
        write_run(batch, s, row, rows, block, e)
        return OK
    first = 0
    while first < s.classes:
        set_part(batch, s, first, &part_batch, &part_scratch, tag)
        write_run(&part_batch, &part_scratch, row, rows, block, e + first * s.exps_apart)
        first += s.part_classes
    return OK


cdef int run_blocks(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, int plan, real tag,
                    double* total) noexcept nogil:
    # Computes rows [start, stop) of a batch.
    cdef Scratch s
    cdef Py_ssize_t row = start, rows
    cdef int status = begin_scratch(batch, &s, plan, stop - start, tag)
    if status != OK:
        return status
    begin_batch(batch, s.block)
    while row < stop and status == OK:
        rows = side_by_side(&batch.logits, row, min_size(s.rows, stop - row))
        rows = side_by_side(&batch.grad, row, rows)
        rows = side_by_side(&batch.hess, row, rows)
        rows = side_by_side(&batch.probabilities, row, rows)
        rows = side_by_side(&batch.mask, row, rows)
        status = do_run(batch, &s, row, rows, s.block, tag, total)
        row += rows
    if s.streams:
        end_streams()
    free(s.memory)
    return status
