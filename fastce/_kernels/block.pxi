# Many rows at once, in scratch that the cache holds.
# Needs batch.pxi, passes.pxi, formulas.pxi, dispatch.pxi, packing.pxi.
#
# A run of rows goes through in three stages:
#   1. Its logits become exponentials. As long as they lie in exp's safe range nothing is taken from them
#      before, so that no exponential asks which row it belongs to. A row out of range is done once more,
#      relative to its maximum.
#   2. Each row is summed up without one of its exponentials, its pivot, so that nothing cancels: the target, or
#      the largest exponential where a class besides the target needs the sum of all others, too. finish_rows
#      makes of this the loss and the coefficients of the third stage.
#   3. Exponentials become derivatives, and go where they are wanted.
# Scratch is packed row by row or class by class (packing.pxi). How memory lies decides only how it is filled and
# emptied.


# What is done to each vector of a run: a type each, so that a loop does not ask.
cdef struct Scaled:      # a e: the gradient of hard labels
    char unused


cdef struct Unified:     # the same from exponentials whose sum has been taken into [1, 2): beside a Hessian
    char unused


cdef struct Smoothed:    # a e + b t: with label smoothing
    char unused


cdef struct Exact:       # likewise, with the sum of all others for each class: of soft targets
    char unused


cdef struct Curved:      # the Hessian
    char unused


cdef struct Distances:   # t (m - u)
    char unused


cdef struct Targets:     # soft target mass of probabilities, smoothed and weighted
    char unused


cdef struct LogSoftmax:  # (u - m) - log of the sum
    char unused


ctypedef fused row_pass:
    Scaled
    Unified
    Smoothed
    Exact
    Curved
    Distances
    Targets
    LogSoftmax


cdef inline int coefficients_of(row_pass kind, int* which) noexcept nogil:
    # The numbers of rows that a pass takes, by their index in Scratch.row.
    if row_pass is Scaled:
        which[0] = SOFTMAX_COEFFICIENT
        return 1
    elif row_pass is Unified:
        which[0] = UNIT
        which[1] = SOFTMAX_COEFFICIENT
        return 2
    elif row_pass is Smoothed:
        which[0] = SOFTMAX_COEFFICIENT
        which[1] = TARGET_COEFFICIENT
        return 2
    elif row_pass is Exact:
        which[0] = UNIT
        which[1] = SUM_WITHOUT_PIVOT
        which[2] = PIVOT
        which[3] = SOFTMAX_COEFFICIENT
        which[4] = TARGET_COEFFICIENT
        return 5
    elif row_pass is Curved:
        which[0] = UNIT
        which[1] = SUM_WITHOUT_PIVOT
        which[2] = PIVOT
        which[3] = HESSIAN_PRODUCT
        which[4] = HESSIAN_SQUARE
        return 5
    elif row_pass is LogSoftmax:
        which[0] = REFERENCE
        which[1] = LOG_TOTAL
        return 2
    elif row_pass is Distances:
        which[0] = REFERENCE
        return 1
    else:
        which[0] = SHARE
        return 1


cdef inline vec[real] passed(vec[real] x, vec[real] t, const vec[real]* c, row_pass kind) noexcept nogil:
    # What becomes of an exponential (of Distances and LogSoftmax a logit, of Targets a probability) and its soft
    # target mass (of Targets the class weight). At the pivot the sum of all others is the one without it.
    cdef vec[real] e
    if row_pass is Scaled:
        return x * c[0]
    elif row_pass is Unified:
        return (x * c[0]) * c[1]
    elif row_pass is Smoothed:
        return fma(x, c[0], t * c[1])
    elif row_pass is Exact:
        e = x * c[0]
        return c[4] * ((c[3] - t) * e - t * (c[1] + (c[2] - e)))
    elif row_pass is Curved:
        e = x * c[0]
        return e * (c[3] * (c[1] + (c[2] - e)) + c[4] * e)
    elif row_pass is LogSoftmax:
        return (x - c[0]) - c[1]
    elif row_pass is Distances:
        return keep(less(splat(<real> 0), abs(t)), t * (c[0] - x))
    else:
        return t * (x + c[0])


cdef inline int label_of(row_pass kind) noexcept nogil:
    return HESSIAN_AT_LABEL if row_pass is Curved else GRAD_AT_LABEL


cdef inline bint has_labels(row_pass kind) noexcept nogil:
    return not (row_pass is Distances or row_pass is Targets or row_pass is LogSoftmax)


cdef inline bint has_target(row_pass kind) noexcept nogil:
    return row_pass is Smoothed or row_pass is Exact or row_pass is Distances or row_pass is Targets


cdef void over_classes(const Scratch* s, Py_ssize_t first, Py_ssize_t rows, const real* x, Py_ssize_t x_apart,
                       const real* t, Py_ssize_t t_apart, real* to, Py_ssize_t to_apart, bint labelled,
                       row_pass kind) noexcept nogil:
    # A pass over rows from `first`, packed class by class; t_apart is 0 if t has one number per class. A label's
    # derivative is found by comparison: to write it after all others asks for a line that has left the cache.
    cdef int width = lanes(<real> 0), which[6], count = coefficients_of(kind, &which[0]), k
    cdef const real* row[6]
    cdef vec[real] c[6]
    cdef vec[real] zero = splat(<real> 0), t_j = zero, this_class = zero, one = splat(<real> 1), y
    cdef const real* label = <const real*> s.row[LABEL]
    cdef const real* at_label = <const real*> s.row[label_of(kind)]
    cdef const real* active = <const real*> s.row[ACTIVE]
    cdef const unsigned char* mask = s.mask
    cdef bint clears = has_labels(kind) and not s.all_active
    cdef Py_ssize_t j, i, stop = first + rows
    for k in range(count):
        row[k] = <const real*> s.row[which[k]]
    for j in range(s.classes):
        if has_target(kind):
            if t_apart == 0:
                t_j = splat(t[j])
        i = first
        while i < stop:
            for k in range(count):
                c[k] = load(row[k] + i)
            if has_labels(kind):
                prefetch_to_write(<const char*> (to + to_apart + i))
            if has_target(kind):
                if t_apart:
                    t_j = load(t + i)
            if row_pass is Targets:
                if mask != NULL:
                    c[0] = keep(load_mask(mask + i, <real> 0), c[0])
            # Logits may be read where they lie, with nothing behind the last ones.
            y = passed(load(x + i) if i + width <= stop else load_first(x + i, stop - i, <real> 0), t_j, &c[0], kind)
            if has_labels(kind):
                if labelled:
                    y = select(equal(load(label + i), this_class), load(at_label + i), y)
                if clears:
                    y = keep(less(zero, load(active + i)), y)
            if i + width <= stop:
                store(to + i, y)
            else:
                store_first(to + i, stop - i, y)
            i += width
        this_class = this_class + one
        x += x_apart
        to += to_apart
        if has_target(kind):
            t += t_apart
        if row_pass is Targets:
            if mask != NULL:
                mask += s.class_apart


cdef void over_rows(const Scratch* s, Py_ssize_t rows, const real* x, const real* t, real* to,
                    row_pass kind) noexcept nogil:
    # A pass over a run packed by rows, one behind the other.
    cdef int width = lanes(<real> 0), which[6], count = coefficients_of(kind, &which[0]), k
    cdef const real* row[6]
    cdef vec[real] c[6]
    cdef vec[real] spread[6]
    cdef vec[real] zero = splat(<real> 0), t_i = zero, x_i
    cdef const unsigned char* mask = s.mask
    cdef Py_ssize_t classes = s.classes, first = 0, i = 0, stop = rows * classes, j
    for k in range(count):
        row[k] = <const real*> s.row[which[k]]
    if s.row_of != NULL:
        # As many rows at once as a vector has lanes.
        while first < rows:
            for k in range(count):
                c[k] = load(row[k] + first)
            for j in range(classes):
                for k in range(count):
                    spread[k] = lanes_at(c[k], s.row_of + j * width)
                if has_target(kind):
                    t_i = load(t + i)
                if row_pass is Targets:
                    if mask != NULL:
                        spread[0] = keep(load_mask(mask + i, <real> 0), spread[0])
                if i + width <= stop:
                    store(to + i, passed(load(x + i), t_i, &spread[0], kind))
                elif i < stop:
                    x_i = load_first(x + i, stop - i, <real> 0)
                    store_first(to + i, stop - i, passed(x_i, t_i, &spread[0], kind))
                i += width
            first += width
        return
    for first in range(rows):
        for k in range(count):
            c[k] = splat(row[k][first])
        i = first * classes
        stop = i + classes
        while i + width <= stop:
            if has_target(kind):
                t_i = load(t + i)
            if row_pass is Targets:
                c[0] = splat(row[0][first])
                if mask != NULL:
                    c[0] = keep(load_mask(mask + i, <real> 0), c[0])
            store(to + i, passed(load(x + i), t_i, &c[0], kind))
            i += width
        if i < stop:
            if has_target(kind):  # which may lie where nothing is behind
                t_i = load_first(t + i, stop - i, <real> 0)
            if row_pass is Targets:
                c[0] = splat(row[0][first])
                if mask != NULL:
                    c[0] = keep(load_mask(mask + i, <real> 0), c[0])
            x_i = load_first(x + i, stop - i, <real> 0)
            store_first(to + i, stop - i, passed(x_i, t_i, &c[0], kind))


cdef void over_run(const Batch* batch, const Scratch* s, Py_ssize_t first, Py_ssize_t rows,
                   const RowBlock* block, const real* x, Py_ssize_t x_apart, const real* t, Py_ssize_t t_apart,
                   real* to, Py_ssize_t to_apart, row_pass kind) noexcept nogil:
    # A pass over rows from `first` of a run, which is the whole of it where it is packed by rows.
    cdef bint labelled = has_labels(kind) and batch.labels.data != NULL
    cdef Py_ssize_t i
    if s.by_classes:
        over_classes(s, first, rows, x, x_apart, t, t_apart, to, to_apart, labelled, kind)
        return
    over_rows(s, rows, x, t, to, kind)
    if labelled:
        put_at_labels(block, rows, <const real*> s.row[label_of(kind)], <char*> to, sizeof(real),
                      s.classes * sizeof(real))
    if has_labels(kind) and not s.all_active:
        for i in range(rows):
            if not block.active[i]:
                memset(to + i * s.classes, 0, s.classes * sizeof(real))


# ------------------------------------------------------------------------ stage 1: exponentials

cdef inline void exponentials_of_segment(const real* u, Py_ssize_t count, real* e, const char* ahead, const char* to,
                                         real* extremes, bint holes) noexcept nogil:
    # exp(u), of logits of -inf exactly 0 where there may be such holes. Prefetches logits of a later run, and the
    # lines that it will write.
    cdef int width = lanes(<real> 0)
    cdef vec[real] lowest = load(<const real*> extremes), highest = load(<const real*> extremes + width)
    cdef vec[real] none = splat(<real> -INFINITY), x, y, x_i, y_i
    cdef Py_ssize_t i = 0
    while i + 2 * width <= count:
        prefetch(ahead + i * sizeof(real))
        prefetch_to_write(to + i * sizeof(real))
        if 2 * width * <int> sizeof(real) > cache_line:
            prefetch(ahead + i * sizeof(real) + cache_line)
            prefetch_to_write(to + i * sizeof(real) + cache_line)
        x = x_i = load(u + i)
        y = y_i = load(u + i + width)
        if holes:  # 0 is in range
            x = drop(equal(x, none), x)
            y = drop(equal(y, none), y)
        highest = max(y, max(x, highest))
        lowest = min(y, min(x, lowest))
        x = moderate_exp(x)
        y = moderate_exp(y)
        if holes:
            x = drop(equal(x_i, none), x)
            y = drop(equal(y_i, none), y)
        store(e + i, x)
        store(e + i + width, y)
        i += 2 * width
    while i < count:
        x = x_i = load(u + i) if i + width <= count else load_first(u + i, count - i, read(u + i))
        if holes:
            x = drop(equal(x, none), x)
        highest = max(x, highest)
        lowest = min(x, lowest)
        x = moderate_exp(x)
        if holes:
            x = drop(equal(x_i, none), x)
        if i + width <= count:
            store(e + i, x)
        else:
            store_first(e + i, count - i, x)
        i += width
    store(extremes, lowest)
    store(extremes + width, highest)


# Not inline, so that each loop has all registers.
cdef void exponentials_without_holes(const real* u, Py_ssize_t count, real* e, const char* ahead, const char* to,
                                     real* extremes) noexcept nogil:
    exponentials_of_segment(u, count, e, ahead, to, extremes, False)


cdef void exponentials_with_holes(const real* u, Py_ssize_t count, real* e, const char* ahead, const char* to,
                                  real* extremes) noexcept nogil:
    exponentials_of_segment(u, count, e, ahead, to, extremes, True)


cdef inline void begin_extremes(real* extremes) noexcept nogil:
    # Of no logits, lane by lane: the least ones, then the greatest.
    store(extremes, splat(<real> INFINITY))
    store(extremes + lanes(<real> 0), splat(<real> -INFINITY))


cdef inline bint are_in_range(const real* extremes) noexcept nogil:
    return are_moderate(-reduce_max(-load(extremes)), reduce_max(load(extremes + lanes(<real> 0))))


cdef inline bint is_out_of_range(real lowest, real highest) noexcept nogil:
    # Of the extremes of a row but for its holes; a row of nothing but holes is in range.
    return lowest < smallest_moderate(highest) or highest > largest_moderate(highest)


cdef inline Py_ssize_t position_of(const real* u, Py_ssize_t count, real number) noexcept nogil:
    # Where the number first is; the last place if it is nowhere.
    cdef int width = lanes(<real> 0)
    cdef vec[real] wanted = splat(number), x
    cdef Py_ssize_t i = 0, last = count - count % width
    while i < last:
        x = load(u + i)
        if any(equal(x, wanted)):
            return i + first_lane(equal(x, wanted))
        i += width
    if i == count:
        return count - 1
    return min_size(i + first_lane(equal(load_first(u + i, count - i, number), wanted)), count - 1)


cdef real extremes_of_row(const real* u, Py_ssize_t count, real* lowest) noexcept nogil:
    # The largest logit; and the smallest one but for -inf, if it is asked for.
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


cdef void row_out_of_range(const real* u, Py_ssize_t classes, real highest, real* e) noexcept nogil:
    # The exponentials of a row relative to its maximum, raised. In a row without a finite logit they are relative
    # to 0; those of infinity itself are one.
    cdef int width = lanes(<real> 0)
    cdef vec[real] m = splat(highest if highest > -INFINITY else <real> 0), x, y
    cdef vec[real] one = splat(<real> (1.0 / lowering(<real> 0)))
    cdef Py_ssize_t i = 0
    while i < classes:
        x = load(u + i) if i + width <= classes else load_first(u + i, classes - i, <real> -INFINITY)
        y = select(equal(x, m), one, raised_exp(x - m))
        if i + width <= classes:
            store(e + i, y)
        else:
            store_first(e + i, classes - i, y)
        i += width


cdef inline vec[real] load_up_to(const real* source, Py_ssize_t count) noexcept nogil:
    # 0 behind.
    return load(source) if count >= lanes(<real> 0) else load_first(source, count, <real> 0)


cdef bint vector_out_of_range(const Scratch* s, const real* u, real* e, Py_ssize_t rows, real* pivot,
                              bint all_new) noexcept nogil:
    # The same for a vector of rows, packed class by class, of which some may be in range: these have their
    # exponentials already, or all get new ones. Sets the class of the pivot where rows are out of range, or where
    # its logit is -inf, to which nothing is relative. Returns whether a row was out of range.
    cdef vec[real] infinity = splat(<real> INFINITY), zero = splat(<real> 0), low = infinity, high = -infinity
    cdef vec[real] least = splat(smallest_moderate(<real> 0)), most = splat(largest_moderate(<real> 0))
    cdef vec[real] raised = splat(<real> (1.0 / lowering(<real> 0))), this_class = zero, one = splat(<real> 1)
    cdef vec[real] top = zero, m, x, y, at_pivot = zero, old = load(<const real*> pivot)
    cdef mask[real] chosen, moves
    cdef Py_ssize_t j, apart = s.logits_class_apart
    for j in range(s.classes):
        x = load_up_to(u + j * apart, rows)
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
    for j in range(s.classes):
        x = load_up_to(u + j * apart, rows)
        y = select(equal(x, m), raised, raised_exp(x - m))
        if all_new:
            at_pivot = drop(equal(x, -infinity), moderate_exp(select(chosen, zero, drop(equal(x, -infinity), x))))
        else:
            at_pivot = load(<const real*> e + j * s.exps_apart)
        store(e + j * s.exps_apart, select(chosen, y, at_pivot))
    return any(chosen)


# --------------------------------------------------------------------------- stage 2: sums of rows

cdef inline vec[double] widened_sum(vec[real] x, vec[real] y, bint exactly) noexcept nogil:
    # Of x and y; exactly, without a rounding in float: focal loss raises it to 1 + gamma (gamma = 2: 6.3 ULP
    # with two of them, and 3.0 without).
    cdef wide_vec[real] wide_x, wide_y
    cdef vec[double] sum
    cdef int k
    if real is float:
        if not exactly:
            return folded(x + y)
    wide_x = widen_lanes(x)
    wide_y = widen_lanes(y)
    sum = wide_x.part[0] + wide_y.part[0]
    for k in range(1, wide_x.parts):
        sum = sum + (wide_x.part[k] + wide_y.part[k])
    return sum


cdef inline vec[double] row_sum(const float* x, Py_ssize_t classes, bint exactly) noexcept nogil:
    # Four vectors are added up before they are widened, for precision no more.
    cdef int width = lanes(<float> 0)
    cdef Py_ssize_t whole = classes - classes % width, j = 0
    cdef vec[float] zero = splat(<float> 0)
    cdef vec[double] sum = widened_sum(load_first(x + whole, classes - whole, <float> 0), zero, exactly)
    while not exactly and j + 4 * width <= whole:
        sum = sum + widened_sum(load(x + j) + load(x + j + width),
                                load(x + j + 2 * width) + load(x + j + 3 * width), False)
        j += 4 * width
    while j < whole:
        sum = sum + widened_sum(load(x + j), zero, exactly)
        j += width
    return sum


cdef void sums_by_rows(const real* x, Py_ssize_t rows, Py_ssize_t classes, bint exactly,
                       double* to) noexcept nogil:
    # As many rows at once as there are sums in a vector; 0 for rows past the last, up to whole vectors. In double
    # the rounding errors are carried along: four of them, on the way to the sum of lanes, cost 2 ULP.
    cdef int width = lanes(<real> 0), together = lanes(<double> 0), k
    cdef Py_ssize_t whole = classes - classes % width, row = 0, j
    cdef const real* of_row = x
    cdef vec[double] sums[8]
    cdef vec[double] errors[8]
    cdef vec[float] rest, zero = splat(<float> 0)
    cdef wide_sum[double] nothing, sum
    while row < rows and real is float and classes < 4 * width:
        for k in range(together):  # rows past the last are in scratch, too
            if real is float:
                rest = load_first(of_row + whole, classes - whole, <float> 0)
                sums[k] = widened_sum(zero if whole == 0 else load(of_row), rest, exactly)
                j = width
                while j < whole:
                    sums[k] = sums[k] + widened_sum(load(of_row + j), zero, exactly)
                    j += width
            of_row += classes
        store(to + row, sums_of_lanes(&sums[0]))
        row += together
    while row < rows:
        for k in range(together):
            if row + k >= rows:
                sums[k] = splat(0.0)
                errors[k] = splat(0.0)
            elif real is float:
                sums[k] = row_sum(of_row, classes, exactly)
            else:
                sum = nothing
                sum.add(load_first(of_row + whole, classes - whole, <real> 0))
                j = 0
                while j + 2 * width <= whole:
                    sum.add(load(of_row + j) + load(of_row + j + width))
                    j += 2 * width
                if j < whole:
                    sum.add(load(of_row + j))
                sums[k] = sum.rounded_sum()
                errors[k] = sum.rounding_error()
            of_row += classes
        if real is float:
            store(to + row, sums_of_lanes(&sums[0]))
        else:
            store(to + row, exact_sums_of_lanes(&sums[0], &errors[0]))
        row += together
    for row in range(rows, (rows + 15) // 16 * 16):
        to[row] = 0.0


cdef inline vec[real] without_pivot(vec[real] y, vec[real] pivot, vec[real] this_class, vec[real]* taken,
                                    bint largest) noexcept nogil:
    # What an exponential adds to the sum of its row; the pivot so far is taken out.
    cdef mask[real] is_pivot
    cdef vec[real] before = taken[0]
    if largest:
        taken[0] = max(y, before)
        return min(before, y)  # NaN stays in the sum
    is_pivot = equal(pivot, this_class)
    taken[0] = select(is_pivot, y, before)
    return drop(is_pivot, y)


cdef void add_classes(const Scratch* s, const real* e, Py_ssize_t apart, Py_ssize_t first,
                             Py_ssize_t stop, Py_ssize_t rows, bint exactly, bint largest) noexcept nogil:
    # Adds some classes of a run to its sums, packed class by class, but for the pivots.
    cdef int width = lanes(<real> 0), k
    cdef vec[real] one = splat(<real> 1), first_class = splat(<real> first), this_class, pivot, taken, x
    cdef wide_sum[real] nothing, sum
    cdef wide_vec[real] wide
    cdef const real* pivots = <const real*> s.pivot_class
    cdef const real* y
    cdef Py_ssize_t i = 0, j
    while i < rows:
        y = e + first * apart + i
        sum = nothing
        this_class = first_class
        pivot = load(pivots + i)
        taken = splat(<real> 0) if first == 0 else load_narrowed(s.pivot_exp + i, <real> 0)
        j = first
        while real is float and not exactly and j + 2 <= stop:
            x = without_pivot(load(y), pivot, this_class, &taken, largest)
            this_class = this_class + one
            x = x + without_pivot(load(y + apart), pivot, this_class, &taken, largest)
            this_class = this_class + one
            sum.add(x)
            y += 2 * apart
            j += 2
        while j < stop:
            sum.add(without_pivot(load(y), pivot, this_class, &taken, largest))
            this_class = this_class + one
            y += apart
            j += 1
        wide = sum.lanes()
        for k in range(0 if first == 0 else wide.parts):
            wide.part[k] = load(<const double*> s.sum_without_pivot + i + k * lanes(<double> 0)) + wide.part[k]
        store_wide(s.sum_without_pivot + i, wide)
        store_widened(s.pivot_exp + i, taken)
        i += width


cdef void sums_by_classes(const real* x, Py_ssize_t apart, Py_ssize_t classes, Py_ssize_t rows,
                          double* to) noexcept nogil:
    cdef wide_sum[real] nothing, sum
    cdef Py_ssize_t i = 0, j
    while i < rows:
        sum = nothing
        j = 0
        while real is float and j + 2 <= classes:
            sum.add(load(x + j * apart) + load(x + (j + 1) * apart))
            j += 2
        while j < classes:
            sum.add(load(x + j * apart))
            j += 1
        store_wide(to + i, sum.lanes())
        x += lanes(<real> 0)
        i += lanes(<real> 0)


# ------------------------------------------------------------------ stage 2: pivots, sums, coefficients

cdef inline void narrow_rows(const double* numbers, Py_ssize_t rows, double factor, real* to) noexcept nogil:
    # Numbers of rows, times the factor, in the working precision.
    cdef wide_vec[real] wide
    cdef Py_ssize_t i = 0
    cdef int k
    while i < rows:
        for k in range(wide.parts):
            wide.part[k] = load(numbers + i + k * lanes(<double> 0)) * splat(factor)
        store(to + i, narrow_lanes(wide))
        i += lanes(<real> 0)


cdef inline void put_at_labels(const RowBlock* block, Py_ssize_t rows, const real* numbers,
                               char* to, Py_ssize_t class_stride, Py_ssize_t row_stride) noexcept nogil:
    # A number of each row where its label is.
    cdef Py_ssize_t i
    for i in range(rows):
        if block.label[i] >= 0:
            write(<real*> (to + block.label[i] * class_stride), read(numbers + i))
        to += row_stride


cdef inline void take_out_pivots(real* e, Py_ssize_t classes, const long long* pivot, Py_ssize_t rows,
                                 double* pivot_exp, double* target_exp) noexcept nogil:
    # Of rows, one behind the other, so that the sums are those of the others. Most pivots are targets.
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
        store_wide(target_exp + i, wide)
        i += lanes(<real> 0)


cdef inline void refine_pivots(const real* u, Py_ssize_t class_apart, Py_ssize_t row_apart,
                               const long long* pivot, Py_ssize_t rows, RowBlock* block,
                               double* pivot_exp) noexcept nogil:
    # From the pivots' logits, in double: the error of float32's exponential is 0.8 ULP, which focal loss
    # multiplies by gamma and 1 + gamma (gamma = 2, without FMA: 5.7 ULP, and 4.3 with this). A raised one is
    # a power of two.
    cdef double logits[BLOCK_ROWS]
    cdef double refined[BLOCK_ROWS]
    cdef double raised = 1.0 / lowering(<real> 0)
    cdef vec[double] unit = splat(moderate_unit(<real> 0))
    cdef Py_ssize_t i
    if real is double:
        return
    for i in range(rows):
        logits[i] = read(u + pivot[i] * class_apart + i * row_apart)
    for i in range(rows, (rows + 15) // 16 * 16):
        logits[i] = 0.0
    i = 0
    while i < rows:
        store(&refined[i], unit * exp(load(<const double*> &logits[i])))
        i += lanes(<double> 0)
    for i in range(rows):
        if block.active[i] and pivot_exp[i] != raised:
            pivot_exp[i] = refined[i]
            if pivot[i] == block.label[i]:
                block.target_exp[i] = refined[i]


cdef inline bint needs_logits(const Batch* batch, const Scratch* s) noexcept nogil:
    # Whether the pivot's logit enters the value. Without, losses are relative to the target, which is the pivot.
    return (s.largest_pivot or is_soft(batch) or batch.z_loss != 0.0 or batch.log_sum_exp != NULL
            or batch.kind == LOG_SUM_EXP)


cdef inline void begin_logits(Scratch* s, RowBlock* block, bint wanted) noexcept nogil:
    if not s.zero_logits:
        memset(&block.maximum[0], 0, sizeof(block.maximum))
        memset(&block.target_logit[0], 0, sizeof(block.target_logit))
    s.zero_logits = not wanted


cdef inline void forget_unused(RowBlock* block, Py_ssize_t rows, double* pivot_exp) noexcept nogil:
    # Rows that do not count have loss 0 and a finite gradient, to be multiplied by 0.
    cdef vec[double] zero = splat(0.0), one = splat(1.0)
    cdef mask[double] unused
    cdef Py_ssize_t i = 0
    while i < rows:
        unused = equal(load(&block.weight[i]), zero)
        store(&block.others[i], drop(unused, load(&block.others[i])))
        store(&block.maximum[i], drop(unused, load(&block.maximum[i])))
        store(&block.target_logit[i], drop(unused, load(&block.target_logit[i])))
        store(&block.target_exp[i], select(unused, one, load(&block.target_exp[i])))
        store(pivot_exp + i, select(unused, one, load(<const double*> pivot_exp + i)))
        i += lanes(<double> 0)


cdef void find_pivots_by_rows(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, RowBlock* block,
                              real* e) noexcept nogil:
    # Puts right the exponentials of rows that are out of range; finds the pivot of each row, and the sum without it.
    cdef const real* u = <const real*> s.logits
    cdef Py_ssize_t classes = s.classes, out = 0, i
    cdef real highest = 0, lowest = 0
    cdef real extremes[32]
    cdef bint is_out, large = s.largest_pivot
    cdef bint wants_logits = needs_logits(batch, s) or s.holes or not s.in_range
    cdef bint simple = s.in_range and block.all_active and batch.labels.data != NULL and not large and not s.holes
    cdef const long long* pivot = &block.label[0] if simple else s.pivot
    begin_logits(s, block, wants_logits)
    if not simple:
        for i in range(rows):
            s.pivot[i] = block.label[i] if block.label[i] >= 0 else 0
    if large or s.holes or not s.in_range:
        for i in range(rows):
            # Nothing is relative to a pivot of -inf.
            if not block.active[i] or (s.in_range and not large
                                       and read(u + i * classes + s.pivot[i]) > -INFINITY):
                continue
            highest = extremes_of_row(u + i * classes, classes, <real*> NULL if s.in_range else &lowest)
            is_out = not s.in_range and is_out_of_range(lowest, highest)
            if is_out:
                row_out_of_range(u + i * classes, classes, highest, e + i * classes)
            elif s.no_exponentials:
                begin_extremes(&extremes[0])
                exponentials_with_holes(u + i * classes, classes, e + i * classes, <const char*> u, <const char*> e,
                                        &extremes[0])
            out += is_out
            if is_out or large or read(u + i * classes + s.pivot[i]) == -INFINITY:
                s.pivot[i] = position_of(u + i * classes, classes, highest)
    s.mostly_out = 2 * out > rows
    if wants_logits:
        for i in range(rows):
            if block.active[i]:
                block.maximum[i] = read(u + i * classes + pivot[i])
            if block.label[i] >= 0:
                block.target_logit[i] = read(u + i * classes + block.label[i])
    if batch.argmax != NULL:
        for i in range(rows):
            write(batch.argmax + row + i, s.pivot[i])
    take_out_pivots(e, classes, pivot, rows, s.pivot_exp, &block.target_exp[0])
    sums_by_rows(<const real*> e, rows, classes, batch.kind == FOCAL, &block.others[0])
    for i in range(rows if large or s.holes or not s.in_range or batch.labels.data == NULL else 0):
        if s.pivot[i] != block.label[i]:  # its derivative is that of any class
            e[i * classes + s.pivot[i]] = <real> s.pivot_exp[i]
            if block.label[i] >= 0:
                block.target_exp[i] = read(e + i * classes + block.label[i])
    if not block.all_active:
        forget_unused(block, rows, s.pivot_exp)
    for i in range(rows, (rows + 15) // 16 * 16):
        block.others[i] = 0.0
        s.pivot_exp[i] = 1.0
    if batch.kind == FOCAL and not large:
        refine_pivots(u, 1, classes, pivot, rows, block, s.pivot_exp)


cdef void find_pivots_by_classes(const Batch* batch, Scratch* s, Py_ssize_t first, Py_ssize_t rows,
                                 RowBlock* block, const real* e) noexcept nogil:
    # The same for rows from `first` of a run, whose exponentials and sums are there already.
    cdef const real* u = <const real*> s.logits + first * s.logits_row_apart
    cdef const real* pivot = <const real*> s.pivot_class + first
    cdef const real* reference = <const real*> s.row[REFERENCE] + first
    cdef double* pivot_exp = s.pivot_exp + first
    cdef Py_ssize_t i = 0
    cdef bint large = s.largest_pivot, wants_logits = needs_logits(batch, s) or s.holes or not s.in_range
    begin_logits(s, block, wants_logits)
    while i < rows:
        store(&block.others[i], load(<const double*> s.sum_without_pivot + first + i))
        store(&block.target_exp[i], load(<const double*> pivot_exp + i))
        i += lanes(<double> 0)
    if not s.in_range or wants_logits or large or batch.kind == FOCAL:
        for i in range(rows):
            s.pivot[first + i] = <long long> pivot[i]
            if not block.active[i]:
                continue
            if block.label[i] >= 0 and (large or s.pivot[first + i] != block.label[i]):
                block.target_exp[i] = read(e + first + i + block.label[i] * s.exps_apart)
            if wants_logits:
                block.maximum[i] = reference[i] if large else read(u + i + s.pivot[first + i] * s.logits_class_apart)
                if block.label[i] >= 0:
                    block.target_logit[i] = read(u + i + block.label[i] * s.logits_class_apart)
    if not block.all_active:
        forget_unused(block, rows, pivot_exp)
    for i in range(rows, (rows + 15) // 16 * 16):
        block.others[i] = 0.0
        if first + i >= s.run_rows:
            pivot_exp[i] = 1.0
    if batch.kind == FOCAL and not large:
        refine_pivots(u, s.logits_class_apart, 1, s.pivot + first, rows, block, pivot_exp)


cdef void find_targets(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, real tag) noexcept nogil:
    # Soft target mass of a run that shares it with no other: t_c = w_c ((1 - label_smoothing) q_c + share). A masked
    # class takes no label smoothing; probability on it makes the loss +inf, as a masked label does.
    cdef real* t = <real*> s.t
    cdef real* share = <real*> s.row[SHARE]
    cdef Py_ssize_t segments = s.classes if s.by_classes else 1, count = rows if s.by_classes else rows * s.classes
    cdef Py_ssize_t i, j, k
    cdef double kept
    cdef real rest = <real> (1.0 - batch.label_smoothing)
    cdef Targets targets
    if batch.probabilities.data != NULL:
        fill_scratch(s, &batch.probabilities, row, rows, t)
        if batch.label_smoothing != 0.0:
            for i in range(segments):
                multiply(<const real*> t + i * s.class_apart, rest, t + i * s.class_apart, count)
    else:
        for i in range(segments):
            memset(t + i * s.class_apart, 0, count * sizeof(real))
    if batch.label_smoothing == 0.0 and batch.class_weight == NULL:
        return
    for i in range(rows):
        share[i] = <real> (batch.label_smoothing / s.classes if batch.label_smoothing else 0.0)
        if s.mask != NULL and batch.label_smoothing != 0.0:
            k = 0
            for j in range(s.classes):
                k += s.mask[i * s.row_apart + j * s.class_apart] != 0
            share[i] = <real> (batch.label_smoothing / k if k else 0.0)
    over_run(batch, s, 0, rows, NULL, t, s.class_apart, <const real*> s.weight, 0, t, s.class_apart, targets)


cdef void find_soft_sums(const Batch* batch, Scratch* s, Py_ssize_t first, Py_ssize_t rows, RowBlock* block,
                         real tag) noexcept nogil:
    # The mass of each row's soft targets, their sum of t (m - u), and the target's own, of a block.
    cdef real* reference = <real*> s.row[REFERENCE] + first
    cdef const real* t = <const real*> s.targets
    cdef real* product = <real*> s.hess
    cdef const real* u = <const real*> s.logits
    cdef Py_ssize_t i
    cdef Distances distances
    for i in range(rows):
        reference[i] = <real> block.maximum[i] if fabs(block.maximum[i]) < INFINITY else 0
    over_run(batch, s, first, rows, block, u, s.logits_class_apart, t, s.t_apart, product, s.class_apart, distances)
    if s.by_classes:
        sums_by_classes(<const real*> product + first, s.class_apart, s.classes, rows, &block.soft_distance[0])
        if s.t_apart:
            sums_by_classes(t + first, s.t_apart, s.classes, rows, &block.soft_mass[0])
    else:
        sums_by_rows(<const real*> product, rows, s.classes, False, &block.soft_distance[0])
        if s.t_apart:
            sums_by_rows(t, rows, s.classes, False, &block.soft_mass[0])
    for i in range(rows):
        if not s.t_apart:
            block.soft_mass[i] = s.shared_mass
        if not block.active[i]:
            block.soft_mass[i] = block.soft_distance[i] = 0.0
        elif block.label[i] >= 0:
            if not s.by_classes:
                block.soft_at_target[i] = t[i * s.classes + block.label[i]]
            elif s.t_apart:
                block.soft_at_target[i] = t[first + i + block.label[i] * s.t_apart]
            else:
                block.soft_at_target[i] = t[block.label[i]]


cdef inline void take_units_out(Scratch* s, Py_ssize_t first, Py_ssize_t rows, RowBlock* block,
                                real tag) noexcept nogil:
    # Makes the sum of each row lie in [1, 2), for coefficients that square it: exactly, by a power of two.
    cdef vec[double] unit, others, pivot
    cdef Py_ssize_t i = 0
    while i < rows:
        others = load(&block.others[i])
        pivot = load(s.pivot_exp + first + i)
        unit = inverse_power(others + pivot)
        store(&s.unit[i], unit)
        store(&block.others[i], others * unit)
        store(s.pivot_exp + first + i, pivot * unit)
        store(&block.target_exp[i], load(&block.target_exp[i]) * unit)
        i += lanes(<double> 0)
    if s.exact:
        narrow_rows(&s.unit[0], rows, 1.0, <real*> s.row[UNIT] + first)


cdef inline bint any_extreme(const RowBlock* block, Py_ssize_t rows, double chain, const double* units,
                             double* factors, real tag) noexcept nogil:
    # What makes exponentials the gradient, and whether some of that are no normal numbers.
    cdef vec[double] smallest = splat(smallest_factor(tag)), largest = splat(0.5 / smallest_factor(tag))
    cdef vec[double] zero = splat(0.0), whole, factor, size
    cdef mask[double] extreme = less(zero, zero)
    cdef Py_ssize_t i = 0
    while i < rows:
        whole = load(&block.softmax_coefficient[i]) * load(&block.row_scale[i]) * splat(chain)
        factor = whole * load(units + i) if real is double else whole
        size = abs(factor)
        extreme = extreme | (less(size, smallest) & less(zero, abs(whole))) | less(largest, size)
        store(factors + i, factor)
        i += lanes(<double> 0)
    return any(extreme)


cdef void multiply_extreme_row(const Scratch* s, Py_ssize_t i, real* e, double whole) noexcept nogil:
    # By the unit and the rest of a factor that is no normal number, in parts.
    cdef real* row = <real*> s.stage
    cdef Py_ssize_t size = sizeof(real)
    if not s.by_classes:
        e += i * s.classes
        scale(<const real*> e, whole, 1.0, 1.0 / s.unit[i], e, s.classes)
        return
    e += i
    copy_strided(<const char*> e, s.exps_apart * size, <char*> row, size, size, s.classes)
    scale(<const real*> row, whole, 1.0, 1.0 / s.unit[i], row, s.classes)
    copy_strided(<const char*> row, size, <char*> e, s.exps_apart * size, size, s.classes)


cdef void set_coefficients(const Batch* batch, Scratch* s, Py_ssize_t first, Py_ssize_t rows, RowBlock* block,
                           real* e) noexcept nogil:
    # What the third stage takes of a block.
    cdef double chain = batch.logit_scale if batch.softcap == 0.0 else 1.0, numbers[BLOCK_ROWS], whole
    cdef Py_ssize_t i
    cdef real* active
    if batch.kind == LOG_SOFTMAX:
        narrow_rows(&block.maximum[0], rows, 1.0, <real*> s.row[REFERENCE] + first)
        narrow_rows(&block.softmax_coefficient[0], rows, 1.0, <real*> s.row[LOG_TOTAL] + first)
        return
    narrow_rows(&block.grad_at_label[0], rows, chain, <real*> s.row[GRAD_AT_LABEL] + first)
    if s.by_classes and not (block.all_active and s.active_ones):
        s.active_ones = False
        active = <real*> s.row[ACTIVE] + first
        for i in range(rows):
            active[i] = block.active[i]
    if s.exact:
        narrow_rows(&block.others[0], rows, 1.0, <real*> s.row[SUM_WITHOUT_PIVOT] + first)
        narrow_rows(s.pivot_exp + first, rows, 1.0, <real*> s.row[PIVOT] + first)
    if batch.hess.data != NULL:
        narrow_rows(&block.hess_product[0], rows, chain * chain, <real*> s.row[HESSIAN_PRODUCT] + first)
        narrow_rows(&block.hess_square[0], rows, chain * chain, <real*> s.row[HESSIAN_SQUARE] + first)
        narrow_rows(&block.hess_at_label[0], rows, chain * chain, <real*> s.row[HESSIAN_AT_LABEL] + first)
    if s.exact and is_soft(batch):
        narrow_rows(&block.softmax_coefficient[0], rows, 1.0, <real*> s.row[SOFTMAX_COEFFICIENT] + first)
        narrow_rows(&block.row_scale[0], rows, chain, <real*> s.row[TARGET_COEFFICIENT] + first)
        return
    if s.exact:  # exponentials are multiplied by the unit
        for i in range(rows):
            numbers[i] = block.softmax_coefficient[i] * block.row_scale[i] * chain
    elif any_extreme(block, rows, chain, &s.unit[0], &numbers[0], <real> 0):
        for i in range(rows):
            whole = block.softmax_coefficient[i] * block.row_scale[i] * chain
            if whole != 0.0 and first_factor(numbers[i], <real> 0) != 1.0:
                multiply_extreme_row(s, i, e + (first if s.by_classes else 0), whole)
                numbers[i] = 1.0
    narrow_rows(&numbers[0], rows, 1.0, <real*> s.row[SOFTMAX_COEFFICIENT] + first)
    if is_soft(batch):
        narrow_rows(&block.factor[0], rows, -chain, <real*> s.row[TARGET_COEFFICIENT] + first)


# ------------------------------------------------------------------------------------- a run

cdef inline bint lies_as_scratch(const Scratch* s, const Matrix* matrix, real tag) noexcept nogil:
    # Whether a matrix can be read or written where it is.
    cdef Py_ssize_t size = sizeof(real)
    if matrix.storage != native_storage(tag):
        return False
    if s.by_classes:
        return matrix.row_stride == size and s.classes > 1 and not s.interleaves
    return matrix.class_stride == size and matrix.row_stride == s.classes * size


cdef void fill_logits(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, real tag) noexcept nogil:
    # What enters the softmax, in place or in scratch: scaled, capped, masked.
    cdef real* u = <real*> s.u
    cdef real* slope = <real*> s.slope
    cdef Py_ssize_t segments = s.classes if s.by_classes else 1, count = rows if s.by_classes else rows * s.classes
    cdef Py_ssize_t size = sizeof(real), i, j, stop
    if is_plain(batch) and lies_as_scratch(s, &batch.logits, tag):
        s.logits = row_address(&batch.logits, row)
        s.logits_class_apart = batch.logits.class_stride // size
        s.logits_row_apart = batch.logits.row_stride // size
        return
    s.logits = u
    s.logits_class_apart = s.class_apart
    s.logits_row_apart = s.row_apart
    fill_scratch(s, &batch.logits, row, rows, u)
    for i in range(segments):
        if batch.softcap != 0.0:
            cap(u, slope + i * s.class_apart, count, batch.logit_scale, batch.softcap)
        elif batch.logit_scale != 1.0:
            multiply(<const real*> u, <real> batch.logit_scale, u, count)
        u += s.class_apart
    if batch.mask.data == NULL:
        return
    fill_mask(s, &batch.mask, row, rows)
    u = <real*> s.u
    for i in range(segments):
        j = i * s.class_apart
        stop = j + count
        while j < stop:
            store(u + j, select(load_mask(s.mask + j, tag), load(<const real*> u + j), splat(<real> -INFINITY)))
            j += lanes(tag)


cdef void load_labels_of_run(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows,
                             real tag) noexcept nogil:
    # As numbers that are compared with class indices. They are judged when a block begins.
    cdef real* label = <real*> s.row[LABEL]
    cdef real* pivot = <real*> s.row[PIVOT_CLASS]
    cdef long long labels[BLOCK_ROWS]
    cdef Py_ssize_t first = 0, count, i
    cdef bint all_labelled = True, any_ignored
    s.pivot_class = label
    while first < rows:
        count = min_size(BLOCK_ROWS, rows - first)
        any_ignored = False
        if batch.labels.data == NULL or not take_labels(batch, row + first, count, &labels[0], &any_ignored):
            all_labelled = False
            for i in range(count):
                if (batch.labels.data == NULL
                        or read_label(&batch.labels, row + first + i, batch.classes, &labels[i]) != OK):
                    labels[i] = -1
        for i in range(count):
            label[first + i] = <real> labels[i]
        all_labelled = all_labelled and not any_ignored
        first += count
    if not all_labelled:  # any pivot serves where there is no label
        s.pivot_class = pivot
        for i in range(rows):
            pivot[i] = label[i] if label[i] >= 0 else 0


cdef void exponentials_by_classes(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, real* e,
                                  bint holes) noexcept nogil:
    # Stages 1 and 2 up to the sums of the rows.
    cdef real extremes[32]
    cdef const real* u = <const real*> s.logits
    cdef const char* ahead
    cdef const char* next_run = <const char*> s.logits if s.logits == s.u else row_address(&batch.logits, row + rows)
    cdef Py_ssize_t j = 0, k, stop
    begin_extremes(&extremes[0])
    if s.classes == 0:  # the sum of nothing
        memset(s.sum_without_pivot, 0, rows * sizeof(double))
        memset(s.pivot_exp, 0, rows * sizeof(double))
    while j < s.classes:
        stop = min_size(j + CLASSES_TOGETHER, s.classes)
        for k in range(j, stop):
            ahead = <const char*> (u + s.logits_class_apart) if k + 1 < s.classes else next_run
            if holes:
                exponentials_with_holes(u, rows, e + k * s.exps_apart, ahead, <const char*> (e + k * s.exps_apart),
                                        &extremes[0])
            else:
                exponentials_without_holes(u, rows, e + k * s.exps_apart, ahead,
                                           <const char*> (e + k * s.exps_apart), &extremes[0])
            u += s.logits_class_apart
        add_classes(s, <const real*> e, s.exps_apart, j, stop, rows, batch.kind == FOCAL, s.largest_pivot)
        j = stop
    s.in_range = are_in_range(&extremes[0])


cdef void classes_out_of_range(const Batch* batch, Scratch* s, Py_ssize_t rows, real* e) noexcept nogil:
    # Puts right the rows of a run that are out of range, and the sums of all.
    cdef const real* u = <const real*> s.logits
    cdef Py_ssize_t i = 0, j = 0, stop, out = 0
    memcpy(s.row[PIVOT_CLASS], s.pivot_class, rows * sizeof(real))
    s.pivot_class = s.row[PIVOT_CLASS]
    while i < rows:
        out += vector_out_of_range(s, u + i, e + i, rows - i, <real*> s.row[PIVOT_CLASS] + i, s.mostly_out)
        i += lanes(<real> 0)
    s.mostly_out = 2 * out * lanes(<real> 0) > rows
    while j < s.classes:
        stop = min_size(j + CLASSES_TOGETHER, s.classes)
        add_classes(s, <const real*> e, s.exps_apart, j, stop, rows, batch.kind == FOCAL, s.largest_pivot)
        j = stop


cdef void largest_logits(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, real tag) noexcept nogil:
    # Of a run packed class by class, and the first class of each.
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
            x = load_up_to(u + j * s.logits_class_apart + i, rows - i)
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
    # Stage 2 of rows from `first` of a run.
    cdef bint only_sum = wants_only_their_sum(batch), wants_grad = batch.grad.data != NULL
    cdef Py_ssize_t i
    cdef int status = begin_rows(batch, row + first, rows, block)
    if status != OK:
        return status
    s.all_active = s.all_active and block.all_active
    if s.by_classes:
        find_pivots_by_classes(batch, s, first, rows, block, <const real*> e)
    else:
        find_pivots_by_rows(batch, s, row + first, rows, block, e)
    if is_soft(batch):
        find_soft_sums(batch, s, first, rows, block, <real> 0)
    if real is double or s.exact:
        take_units_out(s, first, rows, block, <real> 0)
    finish_rows(batch, block, rows, s.pivot_exp + first, not only_sum, wants_grad)
    if wants_grad:
        set_coefficients(batch, s, first, rows, block, e)
    if only_sum:
        total[0] += sum_of_losses(block, s.pivot_exp + first, rows)
    else:
        if batch.others:
            for i in range(rows):
                # That of nothing is one less than none.
                block.others[i] = (-1.0 if block.maximum[i] == -INFINITY and s.pivot_exp[first + i] == 0.0
                                   else block.others[i] / s.pivot_exp[first + i])
        end_rows(batch, row + first, rows, block, batch.classes > SHORT_ROW, <real> 0, total)
    return OK


cdef void clear_and_chain(const Batch* batch, const Scratch* s, Py_ssize_t rows, const RowBlock* block, real* grad,
                          real* hess) noexcept nogil:
    # The chain rule of the cap; and no loss depends on a masked logit, nor on those of a row that does not count.
    cdef Py_ssize_t segments = s.classes if s.by_classes else 1, count = rows if s.by_classes else rows * s.classes
    cdef Py_ssize_t i, j, at
    cdef vec[real] zero = splat(<real> 0)
    cdef const real* active = <const real*> s.row[ACTIVE]
    cdef mask[real] kept
    for i in range(segments):
        at = i * s.class_apart
        if batch.softcap != 0.0:
            chain_rule(batch, <const real*> s.u + at, <const real*> s.slope + at, count, grad + at,
                       hess + at if hess else NULL)
        j = 0
        while j < count and (s.mask != NULL or (s.by_classes and not s.all_active)):
            kept = equal(zero, zero)
            if s.mask != NULL:
                kept = load_mask(s.mask + at + j, <real> 0)
            if s.by_classes:
                kept = kept & less(zero, load(active + j))
            store(grad + at + j, keep(kept, load(<const real*> grad + at + j)))
            if hess:
                store(hess + at + j, keep(kept, load(<const real*> hess + at + j)))
            j += lanes(<real> 0)
    for i in range(0 if s.by_classes or s.all_active else rows):
        if not block.active[i]:
            memset(grad + i * s.classes, 0, s.classes * sizeof(real))
            if hess:
                memset(hess + i * s.classes, 0, s.classes * sizeof(real))


cdef void write_run(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, const RowBlock* block,
                    real* e) noexcept nogil:
    # Stage 3.
    cdef bint is_loss = batch.kind == CROSS_ENTROPY or batch.kind == FOCAL
    cdef bint changes = batch.softcap != 0.0 or (is_loss and batch.mask.data != NULL)
    cdef bint direct = lies_as_scratch(s, &batch.grad, <real> 0) and not changes
    cdef real* grad = <real*> row_address(&batch.grad, row) if direct else e  # where e may be already
    cdef real* hess = NULL
    cdef const real* t = <const real*> s.targets
    cdef Py_ssize_t grad_apart = batch.grad.class_stride // <Py_ssize_t> sizeof(real) if direct else s.exps_apart
    cdef Scaled scaled
    cdef Unified unified
    cdef Smoothed smoothed
    cdef Exact exact
    cdef Curved curved
    cdef LogSoftmax log_softmax
    if batch.hess.data != NULL:
        hess = <real*> s.hess
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, hess, s.class_apart, curved)
    if batch.kind == LOG_SOFTMAX:
        over_run(batch, s, 0, rows, block, <const real*> s.logits, s.logits_class_apart, t, s.t_apart, grad,
                 grad_apart, log_softmax)
    elif is_soft(batch) and s.exact:
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart, exact)
    elif is_soft(batch):
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart, smoothed)
    elif s.exact:
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart, unified)
    else:
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart, scaled)
    if changes:
        clear_and_chain(batch, s, rows, block, grad, hess)
    if not direct:
        empty_scratch(s, <const real*> grad, &batch.grad, row, rows)
    if hess:
        empty_scratch(s, <const real*> hess, &batch.hess, row, rows)


cdef int do_run(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, RowBlock* block, real tag,
                double* total) noexcept nogil:
    cdef real* e = <real*> s.e
    cdef real extremes[32]
    cdef const char* ahead
    cdef const char* to
    cdef Py_ssize_t first = 0
    cdef int status = OK
    s.run_rows = rows
    s.exps_apart = s.class_apart
    fill_logits(batch, s, row, rows, tag)
    if s.in_gradient and (not s.by_classes or rows % lanes(tag) == 0):
        e = <real*> row_address(&batch.grad, row)
        s.exps_apart = batch.grad.class_stride // <Py_ssize_t> sizeof(real)
    s.targets = s.t
    if is_soft(batch) and s.weight != NULL:
        if (batch.label_smoothing == 0.0 and batch.class_weight == NULL and batch.probabilities.data != NULL
                and not s.by_classes and rows % lanes(tag) == 0 and lies_as_scratch(s, &batch.probabilities, tag)):
            s.targets = row_address(&batch.probabilities, row)
        else:
            find_targets(batch, s, row, rows, tag)
    s.all_active = True
    if s.by_classes:
        load_labels_of_run(batch, s, row, rows, tag)
        s.in_range = False
        if not s.mostly_out:
            exponentials_by_classes(batch, s, row, rows, e, s.holes)
        if not s.in_range and not s.holes and not s.mostly_out:
            exponentials_by_classes(batch, s, row, rows, e, True)
            s.holes = s.in_range
        if not s.in_range or (s.holes and not s.largest_pivot):
            classes_out_of_range(batch, s, rows, e)
        if s.largest_pivot:
            largest_logits(batch, s, row, rows, tag)
    else:
        ahead = <const char*> s.logits + (ROWS_AHEAD * sizeof(real) if s.logits != s.u else 0)
        to = <const char*> e
        if batch.grad.data != NULL and lies_as_scratch(s, &batch.grad, tag):
            to = row_address(&batch.grad, row)
        s.in_range = False
        s.no_exponentials = s.mostly_out  # if one row needs those of its own after the other
        if s.mostly_out:
            pass
        elif not s.holes:
            begin_extremes(&extremes[0])
            exponentials_without_holes(<const real*> s.logits, rows * s.classes, e, ahead, to, &extremes[0])
            s.in_range = are_in_range(&extremes[0])
        if not s.in_range and not s.mostly_out:
            begin_extremes(&extremes[0])
            exponentials_with_holes(<const real*> s.logits, rows * s.classes, e, ahead, to, &extremes[0])
            s.holes = s.in_range = are_in_range(&extremes[0])
    while first < rows and status == OK:
        status = finish_block(batch, s, row, first, min_size(BLOCK_ROWS, rows - first), block, e, total)
        first += BLOCK_ROWS
    if batch.grad.data != NULL and status == OK:
        write_run(batch, s, row, rows, block, e)
    return status


cdef inline void* part(char** memory, Py_ssize_t size) noexcept nogil:
    # Lines of cache, and a vector more.
    cdef void* at = memory[0]
    memory[0] += (size + 191) // 64 * 64
    return at


cdef inline bint has_hard_mass(const Batch* batch) noexcept nogil:
    # Whether a label has target mass of its own beside what smoothing gives to all classes.
    cdef Py_ssize_t j
    if batch.class_weight != NULL:
        for j in range(batch.classes):
            if batch.class_weight[j] == 0.0:
                return False
    return batch.label_smoothing < 1.0


cdef int begin_scratch(const Batch* batch, Scratch* s, int plan, Py_ssize_t rows, real tag) noexcept nogil:
    cdef Py_ssize_t size = sizeof(real), classes = batch.classes, width = lanes(tag), elements, numbers, i, j
    cdef bint soft = is_soft(batch), wants_hess = batch.hess.data != NULL
    cdef bint own_targets = batch.probabilities.data != NULL or (soft and batch.mask.data != NULL)
    cdef double mass, whole, lost = 0.0
    cdef char* memory
    memset(s, 0, sizeof(s[0]))
    s.classes = classes
    s.holes = batch.mask.data != NULL
    s.by_classes = plan != BLOCK_BY_ROWS
    s.interleaves = plan == BLOCK_INTERLEAVED
    s.largest_pivot = (wants_hess or own_targets or batch.kind == LOG_SOFTMAX or batch.maximum != NULL
                       or batch.log_sum_exp != NULL
                       or (batch.kind == LOG_SUM_EXP and batch.grad.data == NULL)
                       or (soft and not has_hard_mass(batch)))
    s.exact = batch.grad.data != NULL and (wants_hess or (soft and s.largest_pivot))
    if plan == BLOCK_INTERLEAVED:
        s.rows = INTERLEAVED_ROWS
    elif plan == BLOCK_BY_PLANES:
        s.rows = PLANE_ROWS
        # One line of cache of each class at least.
        while s.rows * storage_size(batch.logits.storage) > cache_line and (
                s.rows * classes * size > PLANE_BYTES or s.rows // 2 >= rows):
            s.rows //= 2
    else:
        s.rows = BLOCK_ROWS
        while s.rows > LEAST_ROWS and s.rows * classes * size > BLOCK_BYTES:
            s.rows //= 2
        while s.rows > 1 and s.rows * classes * size > LARGEST_BLOCK_BYTES:
            s.rows //= 2
    s.in_gradient = (batch.grad.data != NULL and batch.grad.data != batch.logits.data and batch.softcap == 0.0
                     and batch.mask.data == NULL and batch.kind != LOG_SOFTMAX
                     and lies_as_scratch(s, &batch.grad, tag)
                     and (s.rows == 1 if not s.by_classes else s.rows * classes * size > PLANE_BYTES))
    # Planes are no power of two apart: a row of a run would meet itself in the cache.
    s.class_apart = s.rows + 16 if s.by_classes else 1
    s.row_apart = 1 if s.by_classes else classes
    elements = classes * s.class_apart if s.by_classes else (s.rows + 15) // 16 * 16 * classes
    numbers = s.rows + 32
    s.memory = <char*> malloc((6 * elements + (classes + ROW_NUMBERS) * 2 + 10 * numbers * ROW_NUMBERS) * size
                              + 10 * elements + SPREAD_CLASSES * width * 4 + 64 * 192)
    if s.memory == NULL:
        return NO_MEMORY
    memory = s.memory + (64 - <size_t> s.memory % 64)
    s.e = part(&memory, elements * size)
    s.u = part(&memory, elements * size)
    s.stage = part(&memory, elements * 8 + classes * 8)
    for i in range(ROW_NUMBERS):
        s.row[i] = part(&memory, numbers * size)
        memset(s.row[i], 0, numbers * size)
    for i in range(BLOCK_ROWS):
        s.unit[i] = 1.0
    s.active_ones = True
    for i in range(numbers):
        (<real*> s.row[ACTIVE])[i] = 1
    s.sum_without_pivot = <double*> part(&memory, numbers * sizeof(double))
    s.pivot_exp = <double*> part(&memory, numbers * sizeof(double))
    s.pivot = <long long*> part(&memory, numbers * sizeof(long long))
    if soft or wants_hess:
        s.hess = part(&memory, elements * size)
    if batch.softcap != 0.0:
        s.slope = part(&memory, elements * size)
    if batch.mask.data != NULL:
        s.mask = <unsigned char*> part(&memory, elements)
    if not s.by_classes and classes <= SPREAD_CLASSES:
        s.row_of = <int*> part(&memory, SPREAD_CLASSES * width * sizeof(int))
        for i in range(classes * width):
            s.row_of[i] = <int> (i // classes)
    if not soft:
        return OK
    if own_targets:
        s.t = part(&memory, elements * size)
        s.t_apart = s.class_apart
        s.weight = part(&memory, (classes if s.by_classes else elements) * size)
        for i in range(1 if s.by_classes else s.rows):
            for j in range(classes):
                (<real*> s.weight)[i * classes + j] = <real> (batch.class_weight[j] if batch.class_weight else 1.0)
        return OK
    for j in range(classes):  # with what rounding takes beside it (Kahan)
        mass = (<const real*> batch.soft_weight)[j] - lost
        whole = s.shared_mass + mass
        lost = (whole - s.shared_mass) - mass
        s.shared_mass = whole
    s.t = <void*> batch.soft_weight
    if not s.by_classes:
        s.t = part(&memory, elements * size)
        for i in range(s.rows):
            memcpy(<real*> s.t + i * classes, batch.soft_weight, classes * size)
    return OK


cdef int run_blocks(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, int plan, real tag,
                    double* total) noexcept nogil:
    # Rows [start, stop) of a batch.
    cdef RowBlock block
    cdef Scratch s
    cdef Py_ssize_t row = start, rows
    cdef int status = begin_scratch(batch, &s, plan, stop - start, tag)
    if status != OK:
        return status
    begin_batch(batch, &block)
    while row < stop and status == OK:
        rows = side_by_side(&batch.logits, row, min_size(s.rows, stop - row))
        rows = side_by_side(&batch.grad, row, rows)
        rows = side_by_side(&batch.hess, row, rows)
        rows = side_by_side(&batch.probabilities, row, rows)
        rows = side_by_side(&batch.mask, row, rows)
        status = do_run(batch, &s, row, rows, &block, tag, total)
        row += rows
    free(s.memory)
    return status
