# Stage 2 of a run, second part: the pivots of a block, and the sums of all others.
# Needs passes.pxi, long_rows.pxi.

cdef inline void take_out_pivots(real* e, Py_ssize_t classes, const long long* pivot, Py_ssize_t rows,
                                 double* pivot_exp, double* target_exp) noexcept nogil:
    # Takes the pivots out of contiguous rows, so that the sums of the rows are those of all others. They are also
    # stored in `target_exp`, unless that is NULL: most pivots are targets.
    cdef real pivots[BLOCK_ROWS]
    cdef wide_vec[real] wide
    cdef Py_ssize_t i
    for i in range(rows):
        pivots[i] = e[pivot[i]]
        e[pivot[i]] = 0
        e += classes
    for i in range(rows, (rows + 15) // 16 * 16):  # whole vectors
        pivots[i] = 1
    i = 0
    while i < rows:
        wide = widen_lanes(load(<const real*> &pivots[i]))
        store_wide(pivot_exp + i, wide)
        if target_exp != NULL:
            store_wide(target_exp + i, wide)
        i += lanes(<real> 0)


cdef inline void numbers_at(const real* x, Py_ssize_t class_apart, Py_ssize_t row_apart, const long long* which,
                            Py_ssize_t rows, double* to) noexcept nogil:
    # The number of one class of each row. Rows without a class, which do not count, get that of their first class.
    cdef real numbers[BLOCK_ROWS]
    cdef Py_ssize_t i = 0
    for i in range(rows):
        numbers[i] = read(x + i * row_apart + max_size(which[i], 0) * class_apart)
    for i in range(rows, (rows + 15) // 16 * 16):
        numbers[i] = 0
    i = 0
    while i < rows:
        store_widened(to + i, load(<const real*> &numbers[i]))
        i += lanes(<real> 0)


cdef inline void numbers_of_classes(const Scratch* s, const real* x, Py_ssize_t apart, const real* which,
                                    const long long* indices, Py_ssize_t rows, double* to) noexcept nogil:
    # The same for elements packed class by class. With few classes it compares class indices, a vector of rows at
    # a time.
    cdef vec[real] one = splat(<real> 1), this_class, row_class, y
    cdef Py_ssize_t i = 0, j
    if s.classes > INTERLEAVED_CLASSES:
        numbers_at(x, apart, 1, indices, rows, to)
        return
    while i < rows:
        row_class = load(which + i)
        this_class = splat(<real> 0)
        y = load_rest(x + i, rows - i, <real> 0)
        for j in range(1, s.classes):
            this_class = this_class + one
            y = select(equal(row_class, this_class), load_rest(x + j * apart + i, rows - i, <real> 0), y)
        store_widened(to + i, y)
        i += lanes(<real> 0)


cdef inline void refine_pivots(const double* logits, Py_ssize_t rows, RowBlock* block, double* pivot_exp,
                               real tag) noexcept nogil:
    # Computes the pivots from their logits, in double: focal loss multiplies the error of float32's exponential, 0.8
    # ULP, by gamma and 1 + gamma (for gamma = 2 without FMA: 5.7 ULP, and 4.3 with this). A raised pivot is a power of
    # two.
    cdef vec[double] unit = splat(safe_range_unit(<real> 0)), raised = splat(1.0 / inverse_exp_scale(<real> 0))
    cdef vec[double] zero = splat(0.0), before, after, target
    cdef Py_ssize_t i = 0
    if real is double:
        return
    while i < rows:
        before = load(<const double*> pivot_exp + i)
        target = load(&block.target_exp[i])
        after = select(equal(before, raised) | equal(load(&block.weight[i]), zero), before,
                       unit * exp(load(logits + i)))
        # A pivot that is not the target stays the exponential that was left out of the sum.
        after = select(equal(target, before), after, before)
        store(pivot_exp + i, after)
        store(&block.target_exp[i], select(equal(target, before), after, target))
        i += lanes(<double> 0)


cdef inline bint needs_logits(const Batch* batch, const Scratch* s) noexcept nogil:
    # Whether the pivot's logit enters the value. If not, losses are relative to the target, which is the pivot.
    return (s.largest_pivot or is_soft(batch) or batch.z_loss != 0.0 or batch.log_sum_exp != NULL
            or batch.kind == LOG_SUM_EXP)


cdef inline void begin_logits(Scratch* s, RowBlock* block, bint wanted, bint all_follow) noexcept nogil:
    if not s.zero_logits and not all_follow:
        memset(&block.maximum[0], 0, sizeof(block.maximum))
        memset(&block.target_logit[0], 0, sizeof(block.target_logit))
    s.zero_logits = not wanted


cdef inline void forget_unused(RowBlock* block, Py_ssize_t rows, double* pivot_exp) noexcept nogil:
    # Gives rows that do not count a loss of 0 and a finite gradient, which is multiplied by 0.
    cdef vec[double] zero = splat(0.0), one = splat(1.0)
    cdef mask[double] unused
    cdef Py_ssize_t i = 0
    while i < rows:
        unused = equal(load(&block.weight[i]), zero)
        store(&block.sum_without_pivot[i], zero_where(unused, load(&block.sum_without_pivot[i])))
        store(&block.maximum[i], zero_where(unused, load(&block.maximum[i])))
        store(&block.target_logit[i], zero_where(unused, load(&block.target_logit[i])))
        store(&block.target_exp[i], select(unused, one, load(&block.target_exp[i])))
        store(pivot_exp + i, select(unused, one, load(<const double*> pivot_exp + i)))
        i += lanes(<double> 0)


cdef inline real smallest(const real* numbers, Py_ssize_t count) noexcept nogil:
    cdef vec[real] low = splat(<real> INFINITY)
    cdef Py_ssize_t i = 0
    while i < count:
        low = min(load_rest(numbers + i, count - i, <real> INFINITY), low)
        i += lanes(<real> 0)
    return -reduce_max(-low)


cdef void repair_rows(Scratch* s, Py_ssize_t rows, RowBlock* block, real* e) noexcept nogil:
    # Corrects the exponentials of rows that are out of range. Finds the pivots that are not targets, and their logits.
    cdef const real* u = <const real*> s.logits
    cdef Py_ssize_t classes = s.classes, out = 0, i, k
    cdef bint any_low = False
    cdef unsigned long long found
    cdef vec[real] range_begins = splat(safe_range_lowest(<real> 0)), range_ends = splat(safe_range_highest(<real> 0))
    cdef real highest[BLOCK_ROWS]
    cdef real lowest[BLOCK_ROWS]
    cdef real extremes[32]
    cdef vec[double] least = splat(<double> -INFINITY), zero = splat(0.0)
    cdef mask[double] no_pivot = less(zero, zero)
    if s.largest_pivot or not s.in_range:
        maxima_of_rows(u, rows, classes, False, &highest[0])
    if not s.in_range:
        any_low = smallest(&highest[0], rows) <= safe_range_highest(<real> 0)
    if not s.in_range and not any_low and block.all_active:
        out = rows
    elif not s.in_range:
        memset(&lowest[0], 0, sizeof(lowest))
        if any_low and not s.none_low:  # the others are out of range already
            maxima_of_rows(u, rows, classes, True, &lowest[0])
        i = 0
        while i < rows:
            found = lane_bits(less(load_rest(<const real*> &lowest[i], rows - i, <real> 0), range_begins)
                              | less(range_ends, load_rest(<const real*> &highest[i], rows - i, <real> 0)))
            while found:
                s.moved[out] = i + lowest_bit(found)
                out += block.active[s.moved[out]]
                found &= found - 1
            i += lanes(<real> 0)
    if out == rows:
        rows_out_of_range(s, rows, <const real*> &highest[0], e)
    else:
        for i in range(rows if s.no_exponentials else 0):
            if block.active[i] and not is_out_of_range(lowest[i], highest[i]):
                begin_extremes(&extremes[0])
                exponentials_with_holes(u + i * classes, classes, e + i * classes, <const char*> u, <const char*> e,
                                        &extremes[0])
        for k in range(out):
            i = s.moved[k]
            row_out_of_range(u + i * classes, classes, highest[i], e + i * classes)
    s.some_out = out > 0
    s.mostly_out = 2 * out > rows
    s.moved_count = out
    if s.largest_pivot or out == rows:
        positions_in_rows(u, rows, classes, <const real*> &highest[0], s.pivot)
        for i in range(rows, (rows + 15) // 16 * 16):
            highest[i] = 0
        i = 0
        while i < rows:
            store_widened(&block.maximum[i], load(<const real*> &highest[i]))
            i += lanes(<real> 0)
        return
    for k in range(out):
        i = s.moved[k]
        s.pivot[i] = position_of(u + i * classes, classes, highest[i])
        block.maximum[i] = highest[i]
    i = 0
    while i < rows:
        no_pivot = no_pivot | equal(load(&block.maximum[i]), least)
        i += lanes(<double> 0)
    for i in range(rows if any(no_pivot) else 0):  # nothing can be relative to -inf
        if block.maximum[i] == -INFINITY and block.active[i]:
            highest[i] = extremes_of_row(u + i * classes, classes, <real*> NULL)
            s.pivot[i] = position_of(u + i * classes, classes, highest[i])
            block.maximum[i] = highest[i]
            s.moved[s.moved_count] = i
            s.moved_count += 1


cdef inline void put_pivots_back(const Scratch* s, Py_ssize_t rows, RowBlock* block, bint all_moved,
                                 real* e) noexcept nogil:
    # If the pivot is not the target, its derivative is computed like that of any other class. If it is, what is
    # computed for it is replaced.
    cdef Py_ssize_t classes = s.classes, i, k
    cdef real* row = e
    for i in range(rows if all_moved else 0):
        row[s.pivot[i]] = <real> s.pivot_exp[i]
        row += classes
    for k in range(0 if all_moved else s.moved_count):
        i = s.moved[k]
        row = e + i * classes
        row[s.pivot[i]] = <real> s.pivot_exp[i]
        if block.label[i] >= 0:
            block.target_exp[i] = read(<const real*> row + block.label[i])


cdef void find_pivots_by_rows(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, RowBlock* block,
                              real* e) noexcept nogil:
    # Finds the pivot of each row, and the sum of its exponentials without it.
    cdef const real* u = <const real*> s.logits
    cdef Py_ssize_t classes = s.classes, i
    cdef double logits[BLOCK_ROWS]
    cdef bint simple = (s.in_range and block.all_active and batch.labels.data != NULL and not s.largest_pivot
                        and not s.holes and not s.is_long)
    cdef bint wants_logits = needs_logits(batch, s) or s.holes or not s.in_range or s.is_long
    cdef bint all_moved = False, take_target
    cdef const long long* pivot = &block.label[0] if simple else s.pivot
    for i in range(0 if simple else rows):
        s.pivot[i] = block.label[i] if block.label[i] >= 0 else 0
    s.pivots = pivot
    s.moved_count = 0
    if s.is_long and block.active[0]:
        find_pivot_of_long_row(batch, s, block, e)
        s.moved[0] = 0
        s.moved_count = 1
    begin_logits(s, block, wants_logits, wants_logits and block.all_active and batch.labels.data != NULL)
    if wants_logits and batch.labels.data != NULL:
        numbers_at(u, 1, classes, &block.label[0], rows, &block.target_logit[0])
    if wants_logits and batch.labels.data != NULL and not s.is_long:  # the pivots so far
        memcpy(&block.maximum[0], &block.target_logit[0], (rows + 15) // 16 * 16 * sizeof(double))
    elif wants_logits and (s.is_long or not s.largest_pivot):
        numbers_at(u, 1, classes, pivot, rows, &block.maximum[0])
    if s.is_long:
        block.target_exp[0] = s.pivot_exp[0]
        if s.needs_whole_sums and block.active[0]:
            e[s.pivot[0]] = 0
            sums_by_rows(<const real*> e, 1, classes, True, s.whole_sum, s.whole_low)
            e[s.pivot[0]] = <real> s.pivot_exp[0]
    else:
        if s.largest_pivot or s.holes or not s.in_range:
            repair_rows(s, rows, block, e)
        all_moved = s.largest_pivot or batch.labels.data == NULL or s.moved_count == rows
        take_target = all_moved and batch.labels.data != NULL
        if take_target:
            numbers_at(<const real*> e, 1, classes, &block.label[0], rows, &block.target_exp[0])
        take_out_pivots(e, classes, pivot, rows, s.pivot_exp, <double*> NULL if take_target else &block.target_exp[0])
        sums_by_rows(<const real*> e, rows, classes, batch.kind == FOCAL, &block.sum_without_pivot[0], NULL)
        if s.needs_whole_sums:
            sums_by_rows(<const real*> e, rows, classes, True, s.whole_sum, s.whole_low)
    if batch.argmax != NULL:
        for i in range(rows):
            write(batch.argmax + row + i, s.pivot[i])
    if not simple and s.keeps_exponentials and (batch.grad.data != NULL or batch.labels.data != NULL):
        put_pivots_back(s, rows, block, all_moved, e)
    if not block.all_active:
        forget_unused(block, rows, s.pivot_exp)
    for i in range(rows, (rows + 15) // 16 * 16):
        block.sum_without_pivot[i] = 0.0
        s.pivot_exp[i] = 1.0
    if batch.kind == FOCAL and not s.largest_pivot:
        numbers_at(u, 1, classes, pivot, rows, &logits[0])
        refine_pivots(&logits[0], rows, block, s.pivot_exp, <real> 0)


cdef void find_pivots_by_classes(const Batch* batch, Scratch* s, Py_ssize_t first, Py_ssize_t rows,
                                 RowBlock* block, const real* e) noexcept nogil:
    # The same for the rows from `first` on of a run whose exponentials and sums have been computed.
    cdef const real* u = <const real*> s.logits + first * s.logits_row_apart
    cdef const real* label = <const real*> s.row[LABEL] + first
    cdef const real* pivot = <const real*> s.pivot_class + first
    cdef const real* reference = <const real*> s.row[REFERENCE] + first
    cdef const long long* pivots = s.pivot + first
    cdef double* pivot_exp = s.pivot_exp + first
    cdef Py_ssize_t i = 0
    cdef bint large = s.largest_pivot, wants_logits = needs_logits(batch, s) or s.holes or not s.in_range
    cdef double buffer[BLOCK_ROWS]
    cdef double* logits = &block.maximum[0] if wants_logits else &buffer[0]
    begin_logits(s, block, wants_logits, wants_logits and not large and block.all_active and batch.labels.data != NULL)
    while i < rows:
        store(&block.sum_without_pivot[i], load(<const double*> s.sum_without_pivot + first + i))
        store(&block.target_exp[i], load(<const double*> pivot_exp + i))
        i += lanes(<double> 0)
    if pivot == label:
        pivots = &block.label[0]
    elif not large and s.classes > INTERLEAVED_CLASSES:
        for i in range(rows):
            s.pivot[first + i] = <long long> pivot[i]
    i = 0
    while wants_logits and large and i < rows:
        store_widened(&block.maximum[i], load(reference + i))
        i += lanes(<real> 0)
    if (wants_logits or batch.kind == FOCAL) and not large:
        numbers_of_classes(s, u, s.logits_class_apart, pivot, pivots, rows, logits)
    if wants_logits and batch.labels.data != NULL:
        if pivot == label and not large:
            memcpy(&block.target_logit[0], logits, rows * sizeof(double))
        else:
            numbers_of_classes(s, u, s.logits_class_apart, label, &block.label[0], rows, &block.target_logit[0])
        if (large or s.holes or not s.in_range) and (batch.grad.data != NULL or batch.kind == FOCAL):
            numbers_of_classes(s, e + first, s.exps_apart, label, &block.label[0], rows, &block.target_exp[0])
    if not block.all_active:
        forget_unused(block, rows, pivot_exp)
    for i in range(rows, (rows + 15) // 16 * 16):
        block.sum_without_pivot[i] = block.maximum[i] = block.target_logit[i] = 0.0
        block.target_exp[i] = 1.0
        if first + i >= s.run_rows:
            pivot_exp[i] = 1.0
    if batch.kind == FOCAL and not large:
        refine_pivots(logits, rows, block, pivot_exp, <real> 0)
