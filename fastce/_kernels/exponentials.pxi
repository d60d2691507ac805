# Stage 1 of a run: exponentials of the logits as they are if these are in exp's safe range, otherwise relative to the
# maximum of their row.
# Needs passes.pxi, packing.pxi.

cdef inline void exponentials_of_segment(const real* u, Py_ssize_t count, real* e, const char* ahead, const char* to,
                                         real* extremes, bint holes) noexcept nogil:
    # exp(u). With `holes`, logits may be -inf, and their exponentials are exactly 0. Prefetches logits of a later run,
    # and the lines that it will write.
    cdef int width = lanes(<real> 0)
    cdef vec[real] lowest = load(<const real*> extremes), highest = load(<const real*> extremes + width)
    cdef vec[real] none = splat(<real> -INFINITY), x, y, finite_x, finite_y
    cdef mask[real] x_is_hole, y_is_hole
    cdef Py_ssize_t i = 0
    while i + 2 * width <= count:
        prefetch(ahead + i * sizeof(real))
        prefetch_to_write(to + i * sizeof(real))
        if 2 * width * <int> sizeof(real) > cache_line:
            prefetch(ahead + i * sizeof(real) + cache_line)
            prefetch_to_write(to + i * sizeof(real) + cache_line)
        x = finite_x = load(u + i)
        y = finite_y = load(u + i + width)
        if holes:  # 0 is in range; exponentials of holes are garbage until cleared below, so that exp need not wait
            x_is_hole = equal(x, none)
            y_is_hole = equal(y, none)
            finite_x = zero_where(x_is_hole, x)
            finite_y = zero_where(y_is_hole, y)
        highest = max(finite_y, max(finite_x, highest))
        lowest = min(finite_y, min(finite_x, lowest))
        x = exp_in_safe_range(x)
        y = exp_in_safe_range(y)
        if holes:
            x = zero_where(x_is_hole, x)
            y = zero_where(y_is_hole, y)
        store(e + i, x)
        store(e + i + width, y)
        i += 2 * width
    while i < count:
        x = finite_x = load(u + i) if i + width <= count else load_first(u + i, count - i, read(u + i))
        x_is_hole = equal(x, none)
        if holes:
            finite_x = zero_where(x_is_hole, x)
        highest = max(finite_x, highest)
        lowest = min(finite_x, lowest)
        x = exp_in_safe_range(x)
        if holes:
            x = zero_where(x_is_hole, x)
        if i + width <= count:
            store(e + i, x)
        else:
            store_first(e + i, count - i, x)
        i += width
    store(extremes, lowest)
    store(extremes + width, highest)


# Not inline, so that each loop can use all registers.
cdef void exponentials_without_holes(const real* u, Py_ssize_t count, real* e, const char* ahead, const char* to,
                                     real* extremes) noexcept nogil:
    exponentials_of_segment(u, count, e, ahead, to, extremes, False)


cdef void exponentials_with_holes(const real* u, Py_ssize_t count, real* e, const char* ahead, const char* to,
                                  real* extremes) noexcept nogil:
    exponentials_of_segment(u, count, e, ahead, to, extremes, True)


cdef inline void begin_extremes(real* extremes) noexcept nogil:
    # The extremes before the first logit, per lane: the minima, then the maxima.
    store(extremes, splat(<real> INFINITY))
    store(extremes + lanes(<real> 0), splat(<real> -INFINITY))


cdef inline bint are_in_range(const real* extremes) noexcept nogil:
    return are_in_safe_range(-reduce_max(-load(extremes)), reduce_max(load(extremes + lanes(<real> 0))))


cdef inline bint is_out_of_range(real lowest, real highest) noexcept nogil:
    # Takes the extremes of a row without its holes (-inf). A row that consists of holes only is in range.
    return (lowest < safe_range_lowest(highest)) | (highest > safe_range_highest(highest))  # without a branch


cdef inline Py_ssize_t position_of(const real* u, Py_ssize_t count, real number) noexcept nogil:
    # The first position of the number, or the last position if it does not occur.
    cdef int width = lanes(<real> 0)
    cdef vec[real] wanted = splat(number)
    cdef Py_ssize_t i = 0, last = count - count % width
    while i < last:
        if any(equal(load(u + i), wanted)):
            return i + lowest_bit(lane_bits(equal(load(u + i), wanted)))
        i += width
    if i == count:
        return count - 1
    return min_size(i + lowest_bit(lane_bits(equal(load_first(u + i, count - i, number), wanted))), count - 1)


cdef real extremes_of_row(const real* u, Py_ssize_t count, real* lowest) noexcept nogil:
    # The largest logit, ignoring NaN, and in `lowest`, unless that is NULL, the smallest one that is not -inf.
    cdef int width = lanes(<real> 0)
    cdef vec[real] infinity = splat(<real> INFINITY), high = -infinity, low = infinity, x
    cdef Py_ssize_t i = 0, last = count - count % width
    while i < last:
        x = load(u + i)
        high = max(x, high)
        if lowest != NULL:
            low = min(select(equal(x, -infinity), infinity, x), low)
        i += width
    if i < count:
        x = load_first(u + i, count - i, <real> -INFINITY)
        high = max(x, high)
        if lowest != NULL:
            low = min(select(equal(x, -infinity), infinity, x), low)
    if lowest != NULL:
        lowest[0] = -reduce_max(-low)
    return reduce_max(high)


cdef inline vec[real] unless_hole(vec[real] x, bint negated) noexcept nogil:
    return select(equal(x, splat(<real> -INFINITY)), x, -x) if negated else x


cdef inline vec[real] maximum_of_row(const real* u, Py_ssize_t classes, bint negated) noexcept nogil:
    # The maximum per lane, ignoring NaN. Four are computed at the same time, because each operation on one waits for
    # the one before it.
    cdef Py_ssize_t width = lanes(<real> 0), j = 0
    cdef vec[real] least = splat(<real> -INFINITY)
    cdef vec[real] most[4]
    cdef int k
    prefetch(u + ROWS_AHEAD)
    if classes <= width:
        return max(unless_hole(load_rest(u, classes, <real> -INFINITY), negated), least)  # least instead of NaN
    most[0] = max(unless_hole(load(u + classes - width), negated), least)  # the rest, overlapping others
    for k in range(1, 4):
        most[k] = least
    while j + 5 * width <= classes:
        for k in range(4):
            prefetch(u + j + k * width + ROWS_AHEAD)
            most[k] = max(unless_hole(load(u + j + k * width), negated), most[k])
        j += 4 * width
    while j + width < classes:
        prefetch(u + j + ROWS_AHEAD)
        most[0] = max(unless_hole(load(u + j), negated), most[0])
        j += width
    return max(max(most[2], most[3]), max(most[1], most[0]))


cdef void maxima_of_rows(const real* u, Py_ssize_t rows, Py_ssize_t classes, bint negated, real* to) noexcept nogil:
    # The largest logit of each row, or with `negated` the smallest one that is not -inf, for as many rows at once as a
    # vector has lanes. The rows are contiguous.
    cdef int width = lanes(<real> 0), k
    cdef vec[real] x
    cdef vec[real] most[16]
    cdef real highest, lowest = 0
    cdef Py_ssize_t row = 0
    while row + width <= rows:
        for k in range(width):
            most[k] = maximum_of_row(u + k * classes, classes, negated)
        x = maxima_of_lanes(&most[0])
        store(to + row, -x if negated else x)
        u += width * classes
        row += width
    while row < rows:
        highest = extremes_of_row(u, classes, &lowest)
        to[row] = lowest if negated else highest
        u += classes
        row += 1


cdef void positions_in_rows(const real* u, Py_ssize_t rows, Py_ssize_t classes, const real* numbers,
                            long long* to) noexcept nogil:
    # The first position of each row's number.
    cdef Py_ssize_t width = lanes(<real> 0), i, j
    cdef vec[real] wanted
    cdef unsigned long long found, one = 1
    if classes >= 64:
        for i in range(rows):
            to[i] = position_of(u + i * classes, classes, numbers[i])
        return
    for i in range(rows):  # without a branch, which would be hard to predict
        wanted = splat(numbers[i])
        found = one << (classes - 1)
        j = 0
        while j < classes:
            found |= lane_bits(equal(load_rest(u + j, classes - j, <real> 0), wanted)) << j
            j += width
        to[i] = lowest_bit(found)
        u += classes


cdef inline void exponentials_of_row(const real* u, Py_ssize_t classes, real highest, real* e) noexcept nogil:
    # Exponentials of a row that is out of range: relative to its maximum, and raised. If the maximum is -inf, they are
    # relative to 0. That of +inf is 1, raised.
    cdef int width = lanes(<real> 0)
    cdef vec[real] m = splat(highest if highest > -INFINITY else <real> 0), x
    cdef vec[real] one = splat(<real> (1.0 / inverse_exp_scale(<real> 0)))
    cdef Py_ssize_t i = 0
    while i + width <= classes:
        x = load(u + i)
        store(e + i, select(equal(x, m), one, raised_exp(x - m)))
        i += width
    if i < classes:
        x = load_first(u + i, classes - i, <real> -INFINITY)
        store_first(e + i, classes - i, select(equal(x, m), one, raised_exp(x - m)))


cdef void row_out_of_range(const real* u, Py_ssize_t classes, real highest, real* e) noexcept nogil:
    exponentials_of_row(u, classes, highest, e)


cdef void rows_out_of_range(const Scratch* s, Py_ssize_t rows, const real* highest, real* e) noexcept nogil:
    # The same for a run of rows that are all out of range.
    cdef const real* u = <const real*> s.logits
    cdef vec[real] one = splat(<real> (1.0 / inverse_exp_scale(<real> 0))), least = splat(<real> -INFINITY)
    cdef vec[real] top, m, x
    cdef int width = lanes(<real> 0)
    cdef Py_ssize_t first = 0, i = 0, stop = rows * s.classes, j
    if s.row_of == NULL:
        for first in range(rows):
            exponentials_of_row(u + first * s.classes, s.classes, highest[first], e + first * s.classes)
        return
    while first < rows:
        top = load(highest + first)
        top = zero_unless(less(least, top), top)
        for j in range(s.classes):
            m = lanes_at(top, s.row_of + j * width)
            if i + width <= stop:
                x = load(u + i)
                store(e + i, select(equal(x, m), one, raised_exp(x - m)))
                prefetch_to_write(s.to_be_written + i * sizeof(real))
            elif i < stop:
                x = load_first(u + i, stop - i, <real> -INFINITY)
                store_first(e + i, stop - i, select(equal(x, m), one, raised_exp(x - m)))
            i += width
        first += width


cdef bint vector_out_of_range(const Scratch* s, const real* u, real* e, Py_ssize_t rows, real* pivot,
                              bint all_new) noexcept nogil:
    # The same for a vector of rows packed class by class, some of which may be in range. Those keep their exponentials
    # or, with `all_new`, get new ones. Sets the class of the pivot in rows that are out of range, and in rows whose
    # pivot has a logit of -inf, which nothing can be relative to. Returns whether a row was out of range.
    cdef vec[real] infinity = splat(<real> INFINITY), zero = splat(<real> 0), low = infinity, high = -infinity
    cdef vec[real] least = splat(safe_range_lowest(<real> 0)), most = splat(safe_range_highest(<real> 0))
    cdef vec[real] raised = splat(<real> (1.0 / inverse_exp_scale(<real> 0))), this_class = zero, one = splat(<real> 1)
    cdef vec[real] top = zero, m, x, y, at_pivot = zero, old = load(<const real*> pivot)
    cdef mask[real] chosen, moves
    cdef bint any_in_range
    cdef Py_ssize_t j, apart = s.logits_class_apart
    for j in range(s.classes):
        x = load_rest(u + j * apart, rows, <real> 0)
        low = min(select(equal(x, -infinity), infinity, x), low)
        at_pivot = select(equal(old, this_class), x, at_pivot)
        top = select(less(high, x), this_class, top)
        high = max(x, high)
        this_class = this_class + one
    chosen = less(low, least) | less(most, high)
    moves = chosen | equal(at_pivot, -infinity)
    store(pivot, select(moves, top, old))
    if not (any(chosen) or all_new):
        return False
    m = select(less(-infinity, high), high, zero)
    any_in_range = any(less(zero, select(chosen, zero, one)))
    for j in range(s.classes):
        x = load_rest(u + j * apart, rows, <real> 0)
        y = select(equal(x, m), raised, raised_exp(x - m))
        if not any_in_range:
            at_pivot = y
        elif all_new:
            at_pivot = exp_in_safe_range(select(chosen, zero, zero_where(equal(x, -infinity), x)))
            at_pivot = zero_where(equal(x, -infinity), at_pivot)
        else:
            at_pivot = load(<const real*> e + j * s.exps_apart)  # uninitialised after the last row
        store(e + j * s.exps_apart, select(chosen, y, at_pivot))
    return any(chosen)
