# Stage 2 of a run, first part: sums of rows without their pivots, packed row by row or class by class.
# Needs packing.pxi.

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


cdef inline void add_doubles(const double* x, Py_ssize_t count, bint exactly, wide_sum[double]* sum) noexcept nogil:
    # With the rounding errors beside the sum; exactly, those of pairs, too.
    cdef int width = lanes(<double> 0)
    cdef Py_ssize_t whole = count - count % width, j = 0
    sum.add(load_first(x + whole, count - whole, <double> 0))
    while not exactly and j + 2 * width <= whole:
        sum.add(load(x + j) + load(x + j + width))
        j += 2 * width
    while j < whole:
        sum.add(load(x + j))
        j += width


cdef double exact_sum(const real* x, Py_ssize_t count) noexcept nogil:
    cdef wide_sum[double] sum
    if real is float:
        return reduce_add(row_sum(x, count, True))
    else:
        add_doubles(x, count, False, &sum)
        return sum.total()


cdef void sums_by_rows(const real* of_row, Py_ssize_t rows, Py_ssize_t classes, bint exactly,
                       double* to, double* low) noexcept nogil:
    # As many rows at once as there are sums in a vector; 0 for rows past the last, up to whole vectors. In double
    # the rounding errors are carried along: four of them, on the way to the sum of lanes, cost 2 ULP. `low`, if it
    # is not NULL, gets what they leave of a sum in double.
    cdef int width = lanes(<real> 0), together = lanes(<double> 0), k
    cdef Py_ssize_t row = 0, rest
    cdef vec[double] sums[8]
    cdef vec[double] errors[8]
    cdef vec[double] total
    cdef vec[float] zero = splat(<float> 0)
    cdef const float* x
    cdef wide_sum[double] nothing, sum
    while row < rows and real is float and classes < 4 * width:
        # Rows past the last are in scratch, too. Vectors go in pairs, the last one filled up with zeros.
        rest = classes - width
        if rest <= 0:
            for k in range(together):
                x = <const float*> of_row + k * classes
                sums[k] = widened_sum(load_first(x, classes, <float> 0), zero, exactly)
        else:
            for k in range(together):
                x = <const float*> of_row + k * classes
                sums[k] = widened_sum(load(x), load_first(x + width, min_size(rest, width), <float> 0), exactly)
        if rest > width:
            rest -= width
            for k in range(together):
                x = <const float*> of_row + k * classes + 2 * width
                sums[k] = sums[k] + widened_sum(load_first(x, min_size(rest, width), <float> 0),
                                                load_first(x + width, max_size(rest - width, 0), <float> 0), exactly)
        of_row += together * classes
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
                add_doubles(of_row, classes, low != NULL, &sum)
                sums[k] = sum.rounded_sum()
                errors[k] = sum.rounding_error()
            of_row += classes
        if real is float:
            store(to + row, sums_of_lanes(&sums[0]))
        else:
            total = exact_sums_of_lanes(&sums[0], &errors[0])
            store(to + row, total)
            if low != NULL:
                store(low + row, errors[0] - (total - sums[0]))
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
    return zero_where(is_pivot, y)


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


cdef void whole_sums_by_classes(const Scratch* s, const real* e, Py_ssize_t rows) noexcept nogil:
    # Of a run packed by classes, but for the pivots: without a rounding in float, and with what is left in double.
    cdef vec[real] one = splat(<real> 1), this_class, pivot
    cdef wide_sum[real] nothing, sum
    cdef Py_ssize_t i = 0, j
    while i < rows:
        sum = nothing
        this_class = splat(<real> 0)
        pivot = load(<const real*> s.pivot_class + i)
        for j in range(s.classes):
            sum.add(zero_where(equal(pivot, this_class), load(e + j * s.exps_apart + i)))
            this_class = this_class + one
        store_wide(s.whole_sum + i, sum.lanes())
        store_wide(s.whole_low + i, sum.low_lanes())
        i += lanes(<real> 0)


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
