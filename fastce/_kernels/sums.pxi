# Stage 2 of a run, first part: sums of rows without their pivots, packed row by row or class by class.
# Needs passes.pxi, packing.pxi.

cdef inline vec[double] widened_sum(vec[real] x, vec[real] y, bint exactly) noexcept nogil:
    # The sum of x and y. With `exactly` there is no rounding in float: focal loss raises it to the power 1 + gamma (for
    # gamma = 2, the error is 6.3 ULP with two such roundings, and 3.0 without).
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


cdef inline vec[double] sums_of_pair(vec[real] x, vec[real] y) noexcept nogil:
    # The sums of x in the first half, and of y in the second. For float only.
    if real is float:
        return folded_twice(x, y)
    return splat(0.0)


cdef inline vec[real] distance(vec[real] x, vec[real] t, vec[real] reference) noexcept nogil:
    # t (m - u), the part of a soft target in the loss. A class with t = 0 may have a logit of -inf.
    return zero_unless(less(splat(<real> 0), abs(t)), t * (reference - x))


cdef inline vec[real] term(const real* x, const real* t, vec[real] reference, bint distances) noexcept nogil:
    # The terms of a sum: x, or the distances of the logits x.
    return distance(load(x), load(t), reference) if distances else load(x)


cdef inline vec[real] first_terms(const real* x, const real* t, vec[real] reference, Py_ssize_t count,
                                  bint distances) noexcept nogil:
    # The same for fewer elements than lanes; the other lanes are 0.
    cdef vec[real] terms = load_first(x, count, <real> 0)
    return distance(terms, load_first(t, count, <real> 0), reference) if distances else terms


cdef inline vec[real] short_sum(const real* x, const real* t, vec[real] reference, Py_ssize_t classes,
                                bint distances) noexcept nogil:
    # The sum of up to two vectors, per lane.
    cdef int width = lanes(<real> 0)
    if classes <= width:
        return first_terms(x, t, reference, classes, distances)
    return term(x, t, reference, distances) + first_terms(x + width, t + width, reference, classes - width, distances)


cdef inline vec[double] row_sum(const float* x, const float* t, vec[float] reference, Py_ssize_t classes, bint exactly,
                                bint distances) noexcept nogil:
    # Four vectors are added before they are widened; with `exactly`, one at a time.
    cdef int width = lanes(<float> 0)
    cdef Py_ssize_t whole = classes - classes % width, j = 0
    cdef vec[float] zero = splat(<float> 0)
    cdef vec[double] sum = widened_sum(first_terms(x + whole, t + whole, reference, classes - whole, distances), zero,
                                       exactly)
    while not exactly and j + 4 * width <= whole:
        sum = sum + widened_sum(term(x + j, t + j, reference, distances)
                                + term(x + j + width, t + j + width, reference, distances),
                                term(x + j + 2 * width, t + j + 2 * width, reference, distances)
                                + term(x + j + 3 * width, t + j + 3 * width, reference, distances), False)
        j += 4 * width
    while j < whole:
        sum = sum + widened_sum(term(x + j, t + j, reference, distances), zero, exactly)
        j += width
    return sum


cdef inline void add_doubles(const double* x, const double* t, vec[double] reference, Py_ssize_t count, bint exactly,
                             bint distances, wide_sum[double]* sum) noexcept nogil:
    # The sum carries its rounding errors, except those of adding pairs first, which `exactly` avoids.
    cdef int width = lanes(<double> 0)
    cdef Py_ssize_t whole = count - count % width, j = 0
    sum.add(first_terms(x + whole, t + whole, reference, count - whole, distances))
    while not exactly and j + 2 * width <= whole:
        sum.add(term(x + j, t + j, reference, distances) + term(x + j + width, t + j + width, reference, distances))
        j += 2 * width
    while j < whole:
        sum.add(term(x + j, t + j, reference, distances))
        j += width


cdef double exact_sum(const real* x, Py_ssize_t count) noexcept nogil:
    cdef wide_sum[double] sum
    if real is float:
        return reduce_add(row_sum(x, x, splat(<float> 0), count, True, False))
    else:
        add_doubles(x, x, splat(0.0), count, False, False, &sum)
        return sum.total()


cdef inline void sums_of_rows(const real* x, const real* t, const real* reference, Py_ssize_t rows, Py_ssize_t classes,
                              bint exactly, bint distances, double* to, double* low) noexcept nogil:
    # As many rows at once as a vector of doubles has lanes. The sums of rows past the last are 0, up to whole vectors.
    # In double, rounding errors are carried along: four of them, in the sum over lanes, would cost 2 ULP. `low`, if not
    # NULL, gets the rounding errors of the sums in double.
    cdef int width = lanes(<real> 0), together = lanes(<double> 0), k
    cdef Py_ssize_t row = 0, rest, at, at_2
    cdef vec[double] sums[8]
    cdef vec[double] errors[8]
    cdef vec[double] total
    cdef vec[real] zero = splat(<real> 0), m = zero, m_2 = zero
    cdef wide_sum[double] nothing, sum
    sums[0] = splat(0.0)  # not read with one lane, but GCC warns that it might be
    while row < rows and real is float and not exactly and classes <= 2 * width and together > 1:
        # Two rows per vector: with 10 classes and AVX-512, 1.1 ns per row instead of 1.9 (perf record).
        for k in range(together // 2):
            if distances:
                m = splat(reference[min_size(row + k, rows - 1)])
                m_2 = splat(reference[min_size(row + k + together // 2, rows - 1)])
            at = min_size(row + k, rows - 1) * classes
            at_2 = min_size(row + k + together // 2, rows - 1) * classes
            sums[k] = sums_of_pair(short_sum(x + at, t + at, m, classes, distances),
                                   short_sum(x + at_2, t + at_2, m_2, classes, distances))
        store(to + row, sums_of_halves(&sums[0]))
        row += together
    while row < rows and real is float and classes < 4 * width:
        # Vectors are processed in pairs; the last one is filled up with zeros. Rows past the last one repeat it,
        # because memory may end after it.
        rest = classes - width
        for k in range(together):
            at = min_size(row + k, rows - 1)
            if distances:
                m = splat(reference[at])
            at *= classes
            if rest <= 0:
                sums[k] = widened_sum(first_terms(x + at, t + at, m, classes, distances), zero, exactly)
            else:
                sums[k] = widened_sum(term(x + at, t + at, m, distances),
                                      first_terms(x + at + width, t + at + width, m, min_size(rest, width),
                                                  distances), exactly)
            if rest > width:
                at += 2 * width
                sums[k] = sums[k] + widened_sum(
                    first_terms(x + at, t + at, m, min_size(rest - width, width), distances),
                    first_terms(x + at + width, t + at + width, m, max_size(rest - 2 * width, 0), distances),
                    exactly)
        store(to + row, sums_of_lanes(&sums[0]))
        row += together
    while row < rows:
        for k in range(together):
            at = row + k
            if distances and at < rows:
                m = splat(reference[at])
            at *= classes
            if row + k >= rows:
                sums[k] = splat(0.0)
                errors[k] = splat(0.0)
            elif real is float:
                sums[k] = row_sum(x + at, t + at, m, classes, exactly, distances)
            else:
                sum = nothing
                add_doubles(x + at, t + at, m, classes, low != NULL, distances, &sum)
                sums[k] = sum.rounded_sum()
                errors[k] = sum.rounding_error()
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


# Not inline, so that each loop can use all registers.
cdef void sums_by_rows(const real* x, Py_ssize_t rows, Py_ssize_t classes, bint exactly, double* to,
                       double* low) noexcept nogil:
    sums_of_rows(x, x, x, rows, classes, exactly, False, to, low)


cdef void distances_by_rows(const real* u, const real* t, const real* reference, Py_ssize_t rows, Py_ssize_t classes,
                            double* to) noexcept nogil:
    sums_of_rows(u, t, reference, rows, classes, False, True, to, NULL)


cdef inline vec[real] without_pivot(vec[real] y, vec[real] pivot, vec[real] this_class, vec[real]* taken,
                                    bint largest) noexcept nogil:
    # The term of an exponential in the sum of its row, without the pivot so far.
    cdef mask[real] is_pivot
    cdef vec[real] before = taken[0]
    if largest:
        taken[0] = max(y, before)
        return min(before, y)  # NaN remains in the sum
    is_pivot = equal(pivot, this_class)
    taken[0] = select(is_pivot, y, before)
    return zero_where(is_pivot, y)


cdef inline void add_classes(const Scratch* s, const real* e, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t rows,
                             bint exactly, bint largest, bint whole) noexcept nogil:
    # Adds some classes of a run packed class by class to the sums of its rows, without the pivots. With `whole`, also
    # adds them to sums that are never rounded to float and carry their rounding errors in double, and finds the largest
    # one. After the last row, the last vector reads uninitialised exponentials, and stores sums that are not used.
    cdef int width = lanes(<real> 0)
    cdef Py_ssize_t apart = s.exps_apart, i = 0, j
    cdef vec[real] one = splat(<real> 1), first_class = splat(<real> first), this_class, pivot, taken, x, y
    cdef vec[real] top = splat(<real> 0)
    cdef wide_sum[real] nothing, sum, exact
    cdef const real* pivots = <const real*> s.pivot_class
    cdef real* tops = <real*> s.row[TOP]
    cdef const real* z
    while i < rows:
        z = e + first * apart + i
        sum = exact = nothing
        if first > 0:
            sum.resume(s.sum_without_pivot + i, s.sum_low + i)
        if first > 0 and whole:
            exact.resume(s.whole_sum + i, s.whole_low + i)
        this_class = first_class
        pivot = load(pivots + i)
        taken = splat(<real> 0) if first == 0 else load_narrowed(s.pivot_exp + i, <real> 0)
        if whole:
            top = splat(<real> 0) if first == 0 else load(<const real*> tops + i)
        j = first
        while real is float and not exactly and j + 2 <= stop:
            x = without_pivot(load(z), pivot, this_class, &taken, largest)
            this_class = this_class + one
            y = without_pivot(load(z + apart), pivot, this_class, &taken, largest)
            this_class = this_class + one
            if whole:
                exact.add(x)
                exact.add(y)
                top = max(x, max(y, top))
            sum.add(x + y)
            z += 2 * apart
            j += 2
        while j < stop:
            x = without_pivot(load(z), pivot, this_class, &taken, largest)
            this_class = this_class + one
            if whole:
                exact.add(x)
                top = max(x, top)
            sum.add(x)
            z += apart
            j += 1
        if stop < s.classes:
            sum.pause(s.sum_without_pivot + i, s.sum_low + i)
        else:
            store_wide(s.sum_without_pivot + i, sum.lanes())
        store_widened(s.pivot_exp + i, taken)
        if whole and stop < s.classes:
            exact.pause(s.whole_sum + i, s.whole_low + i)
        elif whole:
            store_wide(s.whole_sum + i, exact.lanes())
            store_wide(s.whole_low + i, exact.low_lanes())
        if whole:
            store(tops + i, top)
        i += width


# Not inline, so that each loop can use all registers.
cdef void add_for_gradient(const Scratch* s, const real* e, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t rows,
                           bint exactly, bint largest) noexcept nogil:
    add_classes(s, e, first, stop, rows, exactly, largest, False)


cdef void add_for_hessian(const Scratch* s, const real* e, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t rows,
                          bint exactly) noexcept nogil:
    add_classes(s, e, first, stop, rows, exactly, False, True)


cdef void soft_sums_by_classes(const real* u, Py_ssize_t u_apart, const real* t, Py_ssize_t t_apart,
                               const real* reference, Py_ssize_t classes, Py_ssize_t rows, double* mass,
                               double* distances) noexcept nogil:
    # Sums of a run packed class by class: of t, unless all rows have the same t, and of t (m - u). After the last
    # row, t may be uninitialised; results computed from it are not written to any array of the call.
    cdef wide_sum[real] nothing, mass_sum, distance_sum
    cdef vec[real] m, x, y, t_x, t_y
    cdef int width = lanes(<real> 0)
    cdef Py_ssize_t i = 0, j, stop, ahead = PLANE_AHEAD // width * u_apart
    while i < rows:
        mass_sum = distance_sum = nothing
        m = load(reference + i)
        j = 0
        stop = classes - 1 if real is float else 0  # floats are added in pairs before they are widened
        while j < classes:
            t_x = load(t + j * t_apart + i) if t_apart else splat(t[j])
            prefetch(u + j * u_apart + ahead + i)
            x = distance(load_rest(u + j * u_apart + i, rows - i, <real> 0), t_x, m)
            if j < stop:
                j += 1
                t_y = load(t + j * t_apart + i) if t_apart else splat(t[j])
                prefetch(u + j * u_apart + ahead + i)
                y = distance(load_rest(u + j * u_apart + i, rows - i, <real> 0), t_y, m)
                x = x + y
                t_x = t_x + t_y
            distance_sum.add(x)
            if t_apart:
                mass_sum.add(t_x)
            j += 1
        store_wide(distances + i, distance_sum.lanes())
        if t_apart:
            store_wide(mass + i, mass_sum.lanes())
        i += width
