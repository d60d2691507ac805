# KL divergence of the softmax of two arrays of logits: the passes over the elements of rows, and the numbers of rows.
# Needs passes.pxi, batch.pxi, dispatch.pxi.
#
# With z the student's logits, t the teacher's, T the temperature, p = softmax(t / T), q = softmax(z / T) and
# l_j = log q_j - log p_j,
#     loss   = T^2 sum_j p_j (expm1(l_j) - l_j),      every term >= 0
#     grad_j = T p_j expm1(l_j)
# None of these is a difference of two probabilities, unless l_j is so large that nothing cancels. A row has
#     s_j = (z_j - t_j + center) / T,                 l_j minus a number that is the same for all classes
#     a_j = exp(t_j / T), times any number,           A = sum of a_j
#     c_j = a_j expm1(s_j),                           C = sum of c_j: the change from teacher to student
#     B = sum of a_j (expm1(s_j) - s_j)
# and has p_j = a_j / A, q_j = (a_j + c_j) / (A + C), hence l_j = s_j - L with L = log1p(x), x = C / A, and
#     q_j - p_j = (c_j - a_j x) / (A + C)
#     sum_j p_j (expm1(l_j) - l_j) = B / A - (x - L),  x = expm1(L)
# Both terms of the last line are >= 0. The second is small compared with the first if the center is the mean of
# t_j - z_j under p; or, in a row that is dominated by one class, the difference of that class. Its s_j is then exactly
# 0, and its gradient depends only on the other classes. If x is large, the loss is L - sum_j p_j s_j: with a small
# center, from the mean of z_j - t_j; with a large one, which would cancel that mean, by summing the s_j themselves.
#
# If the center is much larger than the differences that it leaves, z_j - t_j is taken with its rounding error. All this
# is for rows whose numbers are in the range of exp. Others are computed again with care (divergence_careful.pxi).

cdef enum:
    VECTORS_TOGETHER = 8   # vectors that are added before they are widened


cdef double DOMINANT = 0.9      # share of a class that dominates its row
cdef double LARGE_CENTER = 2.0  # center over T, above which differences are taken with their rounding errors at once
cdef double FAR_FROM_FIRST = 8.0  # the same for the mean difference from the first


cdef struct Line:
    # The elements that a pass runs over: those of one row or, packed class by class, those of one vector of rows.
    const void* z
    const void* t
    void* a
    void* c
    char* to                   # where the gradient is written, or c
    const unsigned char* kept  # the mask, or NULL
    Py_ssize_t z_apart         # elements from one vector to the next
    Py_ssize_t t_apart
    Py_ssize_t apart           # of the others
    Py_ssize_t to_apart        # in bytes
    Py_ssize_t z_ahead         # bytes to what weigh_line or change_line prefetches
    Py_ssize_t t_ahead
    Py_ssize_t vectors         # whole ones
    Py_ssize_t rest            # elements after these
    bint by_classes
    Py_ssize_t row             # the first row, within its block
    Py_ssize_t rows


cdef struct PairRows:
    # The numbers of each row of a block.
    double weights[BLOCK_ROWS]          # A
    double first[BLOCK_ROWS]            # z_0 - t_0: if all differences are equal, the center is exactly -first
    double moments[BLOCK_ROWS]          # sum of a_j (z_j - t_j - first)
    double changes[BLOCK_ROWS]          # C
    double terms[BLOCK_ROWS]            # B
    double means[BLOCK_ROWS]            # sum of a_j s_j, if differences are taken with their rounding errors
    double lowest[BLOCK_ROWS]           # of the teacher's logits
    double highest[BLOCK_ROWS]
    double student_highest[BLOCK_ROWS]  # only of rows that are computed with care, like the next three
    double student[BLOCK_ROWS]          # sum of the student's exponentials
    double excess[BLOCK_ROWS]           # what B / A leaves out: classes with a huge |s_j|; infinity if the student
    #                                     excludes a class that the teacher does not
    double scale[BLOCK_ROWS]            # the factor that turns the student's exponentials into a_j + c_j
    double top[BLOCK_ROWS]              # the largest a_j
    double center[BLOCK_ROWS]           # the center is the sum of two numbers of the working precision
    double center_low[BLOCK_ROWS]
    double exact[BLOCK_ROWS]            # 1 or 0: whether differences are taken with their rounding errors
    double again[BLOCK_ROWS]            # 1 or 0: whether the row turned out to need that
    double spread[BLOCK_ROWS]           # the largest |s_j|
    double careful[BLOCK_ROWS]          # 1 or 0
    double active[BLOCK_ROWS]           # 1 or 0
    double ratio[BLOCK_ROWS]            # x
    double slope[BLOCK_ROWS]            # the factor that turns (c_j - a_j x) slope_unit into the gradient
    double slope_unit[BLOCK_ROWS]       # 1, or a power of two if the slope alone would not be a normal number
    double factor[BLOCK_ROWS]           # of the Hessian, like the next three
    double unit[BLOCK_ROWS]
    double others[BLOCK_ROWS]
    double ties[BLOCK_ROWS]


# Lines. ---------------------------------------------------------------------------------------------------------

cdef inline vec[real] for_rows(const Line* line, const double* numbers, real tag) noexcept nogil:
    # A number of each row, in the lanes of its elements.
    return load_narrowed(numbers + line.row, tag) if line.by_classes else splat(<real> numbers[line.row])


cdef inline void put_sum(const Line* line, const wide_sum[real]* sum, double* to) noexcept nogil:
    if line.by_classes:
        store_wide(to + line.row, sum.lanes())
    else:  # the line may be one of several parts of a row
        to[line.row] += sum.total()


cdef inline void put_maximum(const Line* line, vec[real] most, double* to) noexcept nogil:
    if line.by_classes:
        store_widened(to + line.row, most)
    else:
        to[line.row] = max(splat(<double> reduce_max(most)), splat(to[line.row]))[0]


cdef inline void begin_numbers(PairRows* rows, Py_ssize_t i, bint counts, bint by_classes) noexcept nogil:
    rows.active[i] = rows.careful[i] = 1.0 if counts else 0.0
    rows.excess[i] = 0.0
    if not by_classes:  # numbers are added up over the parts of a row
        rows.weights[i] = rows.moments[i] = rows.changes[i] = rows.terms[i] = rows.means[i] = rows.spread[i] = 0.0
        rows.lowest[i] = rows.highest[i] = rows.student_highest[i] = -INFINITY


cdef inline double largest_logit(real tag) noexcept nogil:
    return LARGEST_FLOAT if real is float else LARGEST_DOUBLE


cdef inline Py_ssize_t steps_of(const Line* line) noexcept nogil:
    return line.vectors + (line.rest > 0)


cdef inline vec[real] vector_of(const Line* line, const void* numbers, Py_ssize_t apart, Py_ssize_t i,
                                real fill) noexcept nogil:
    cdef const real* at = <const real*> numbers + i * apart
    return load(at) if i < line.vectors else load_first(at, line.rest, fill)


# Most rows. -----------------------------------------------------------------------------------------------------

cdef inline vec[real] weigh(vec[real] z, vec[real] t, vec[real] first, vec[real] inverse_temperature, bint scales,
                            vec[real]* weights, vec[real]* moments, vec[real]* low, vec[real]* high) noexcept nogil:
    cdef vec[real] a = rough_exp_in_safe_range(t * inverse_temperature if scales else t)
    weights[0] = weights[0] + a
    moments[0] = fma(a, (z - t) - first, moments[0])
    low[0] = lower_if_negative(t, low[0])
    high[0] = max(t, high[0])
    return a


cdef inline void weigh_vectors(const Line* line, double inverse_temperature, bint scales, PairRows* rows,
                               real tag) noexcept nogil:
    cdef const real* z = <const real*> line.z
    cdef const real* t = <const real*> line.t
    cdef real* a = <real*> line.a
    cdef vec[real] inverse = splat(<real> inverse_temperature), zero = splat(<real> 0), weights, moments, x
    cdef vec[real] low = splat(<real> INFINITY), high = -low, first = for_rows(line, &rows.first[0], tag)
    cdef wide_sum[real] weight_sum, moment_sum
    cdef Py_ssize_t i = 0, vectors = line.vectors, z_apart = line.z_apart, t_apart = line.t_apart, apart = line.apart
    cdef Py_ssize_t stop
    while i < vectors:
        weights = moments = zero
        stop = min_size(i + VECTORS_TOGETHER, vectors)
        while i < stop:
            if line.by_classes:
                prefetch(<const char*> z + line.z_ahead)
                prefetch(<const char*> t + line.t_ahead)
            store(a, weigh(load(z), load(t), first, inverse, scales, &weights, &moments, &low, &high))
            z += z_apart
            t += t_apart
            a += apart
            i += 1
        weight_sum.add(weights)
        moment_sum.add(moments)
    if line.rest:
        x = weigh(zero, load_first(t, line.rest, read(t)), first, inverse, scales, &weights, &moments, &low, &high)
        store(a, x)
        x = load_first(<const real*> a, line.rest, <real> 0)
        store(a, x)  # past the end, no element has a weight
        weight_sum.add(x)
        moment_sum.add(x * ((load_first(z, line.rest, <real> 0) - load_first(t, line.rest, <real> 0)) - first))
    put_sum(line, &weight_sum, &rows.weights[0])
    put_sum(line, &moment_sum, &rows.moments[0])
    put_maximum(line, -low, &rows.lowest[0])
    put_maximum(line, high, &rows.highest[0])


cdef inline void find_first(const Line* line, PairRows* rows, real tag) noexcept nogil:
    # 0 if the difference is not finite: such rows are computed with care.
    cdef Py_ssize_t i
    cdef double first
    for i in range(line.row, line.row + line.rows if steps_of(line) else line.row):
        first = read(<const real*> line.z + (i - line.row)) - read(<const real*> line.t + (i - line.row))
        rows.first[i] = first if fabs(first) < INFINITY else 0.0


cdef void weigh_line(const Line* line, double inverse_temperature, PairRows* rows, real tag) noexcept nogil:
    # Sets a_j. Exponentials and changes have separate loops: with shorter chains of operations, a processor works on
    # more of them at once.
    if inverse_temperature == 1.0:
        weigh_vectors(line, inverse_temperature, False, rows, tag)
    else:
        weigh_vectors(line, inverse_temperature, True, rows, tag)


cdef inline vec[double] rounded(vec[double] x, real tag) noexcept nogil:
    # Rounds to the working precision by arithmetic (Dekker's split): GCC 12 drops casts to float and back when it joins
    # two of them into a vector.
    cdef vec[double] c = x * splat(536870913.0)  # 2^29 + 1
    return c - (c - x) if real is float else x


cdef bint find_centers(PairRows* rows, Py_ssize_t count, double inverse_temperature, real tag) noexcept nogil:
    # Sets the centers of rows in range. Returns whether some rows are dominated by one class.
    cdef vec[double] inverse = splat(inverse_temperature), one = splat(1.0), zero = splat(0.0), low, high, a, w, top
    cdef vec[double] center, mean, lowest
    cdef double digits = 17.0 if real is float else 37.0  # of the working precision, as a logarithm
    cdef mask[double] fits, dominated, exact, any_dominated = less(zero, zero)
    cdef Py_ssize_t i = 0
    while i < count:
        a = load(&rows.weights[i])
        w = load(&rows.moments[i])
        low = -load(&rows.lowest[i]) * inverse
        high = load(&rows.highest[i]) * inverse
        mean = w / a
        # In a row of small exponentials, the product of one with a small difference might not be a normal number. The
        # center needs digits after those of the logits, which are as large as itself.
        lowest = splat(<double> safe_range_lowest(tag)) + min(splat(digits), max(zero, -high))
        fits = (at_most(lowest, low) & at_most(splat(-30.0), high)
                & at_most(high, splat(<double> safe_range_highest(tag))) & less(abs(w), splat(<double> INFINITY))
                & at_most(abs(load(&rows.first[i]) + mean) * inverse, splat(2.0 ** 22 if real is float else 2.0 ** 51)))
        store(&rows.careful[i], zero_where(fits, load(&rows.active[i])))
        top = exp(min(high, splat(100.0))) * splat(safe_range_unit(tag))
        dominated = less(a * splat(DOMINANT), top) & fits & less(zero, load(&rows.active[i]))
        any_dominated = any_dominated | dominated
        store(&rows.top[i], top)
        center = rounded(zero_unless(fits, -(load(&rows.first[i]) + mean)), tag)
        store(&rows.center[i], center)
        store(&rows.center_low[i], zero)
        # Far from the first difference, the moment would lose digits.
        exact = less(splat(LARGE_CENTER), abs(center) * inverse) | less(splat(FAR_FROM_FIRST), abs(mean) * inverse)
        store(&rows.exact[i], zero_unless(exact, one))
        i += lanes(<double> 0)
    return any(any_dominated)


cdef inline vec[real] difference(vec[real] x, vec[real] y, vec[real]* low) noexcept nogil:
    # x - y and its rounding error (Knuth's two-sum).
    cdef vec[real] d = x - y, back = x - d
    low[0] = (x - (d + back)) + (back - y)
    return d


cdef void center_dominated(const Line* line, PairRows* rows, real tag) noexcept nogil:
    # The center of a row that is dominated by one class is the difference of that class.
    cdef double found[16]
    cdef double found_low[16]
    cdef vec[real] top = for_rows(line, &rows.highest[0], tag), center = splat(<real> -INFINITY), center_low = center
    cdef vec[real] t, d, low
    cdef bint any_dominated = False
    cdef Py_ssize_t i
    for i in range(line.row, line.row + line.rows):
        any_dominated = any_dominated or DOMINANT * rows.weights[i] < rows.top[i]
    if not any_dominated:
        return
    for i in range(steps_of(line)):
        t = vector_of(line, line.t, line.t_apart, i, <real> NAN)
        d = difference(t, vector_of(line, line.z, line.z_apart, i, <real> 0), &low)
        center = select(equal(t, top), d, center)
        center_low = select(equal(t, top), low, center_low)
    if line.by_classes:
        store_widened(&found[0], center)
        store_widened(&found_low[0], center_low)
    else:
        found[0] = reduce_max(center)
        found_low[0] = reduce_max(center_low)
    for i in range(line.rows):
        if DOMINANT * rows.weights[line.row + i] < rows.top[line.row + i] and rows.careful[line.row + i] == 0.0:
            rows.center[line.row + i] = found[i]
            rows.center_low[line.row + i] = found_low[i]


cdef inline vec[real] centered(vec[real] z, vec[real] t, const vec[real]* center, mask[real] exactly,
                               vec[real] inverse_temperature, bint scales, bint exact,
                               vec[real]* spread) noexcept nogil:
    # s_j.
    cdef vec[real] low, s = (difference(z, t, &low) if exact else z - t) + center[0]
    if exact:
        s = s + zero_unless(exactly, low + center[1])
    if scales:
        s = s * inverse_temperature
    spread[0] = max_magnitude(s, spread[0])
    return s


cdef inline vec[real] change(vec[real] s, reduced[real] s_parts, vec[real] a, bint exact, vec[real]* changes,
                             vec[real]* terms, vec[real]* means) noexcept nogil:
    # c_j.
    cdef vec[real] rest, c = a * expm1_of_reduced(s_parts, &rest)
    changes[0] = changes[0] + c
    terms[0] = fma(a, rest, terms[0])
    if exact:
        means[0] = fma(a, s, means[0])
    return c


cdef inline void change_vectors(const Line* line, double inverse_temperature, bint scales, bint exact, PairRows* rows,
                                real tag) noexcept nogil:
    cdef const real* z = <const real*> line.z
    cdef const real* t = <const real*> line.t
    cdef const real* a = <const real*> line.a
    cdef real* c = <real*> line.c
    cdef const char* to = line.to
    cdef vec[real] inverse = splat(<real> inverse_temperature), zero = splat(<real> 0), spread = zero, changes, terms
    cdef vec[real] means, s = zero, following
    cdef vec[real] center[2]
    cdef mask[real] exactly = less(zero, for_rows(line, &rows.exact[0], tag))
    cdef reduced[real] s_parts = reduce_exponent(zero), following_parts
    cdef wide_sum[real] change_sum, term_sum, mean_sum
    cdef Py_ssize_t i = 0, vectors = line.vectors, z_apart = line.z_apart, t_apart = line.t_apart, apart = line.apart
    cdef Py_ssize_t stop, to_apart = line.to_apart, z_ahead = 0 if line.by_classes else line.z_ahead
    cdef Py_ssize_t t_ahead = 0 if line.by_classes else line.t_ahead
    center[0] = for_rows(line, &rows.center[0], tag)
    center[1] = for_rows(line, &rows.center_low[0], tag)
    if vectors:
        s = centered(load(z), load(t), &center[0], exactly, inverse, scales, exact, &spread)
        s_parts = reduce_exponent(s)
    while i < vectors:
        changes = terms = means = zero
        stop = min_size(i + VECTORS_TOGETHER, vectors)
        while i < stop:
            prefetch(<const char*> z + z_ahead)
            prefetch(<const char*> t + t_ahead)
            prefetch_to_write(to)
            i += 1
            if i < vectors:  # the last vector is computed twice
                z += z_apart
                t += t_apart
            # One vector ahead, so that neither half of the work waits for the other.
            following = centered(load(z), load(t), &center[0], exactly, inverse, scales, exact, &spread)
            following_parts = reduce_exponent(following)
            store(c, change(s, s_parts, load(a), exact, &changes, &terms, &means))
            s = following
            s_parts = following_parts
            a += apart
            c += apart
            to += to_apart
        change_sum.add(changes)
        term_sum.add(terms)
        if exact:
            mean_sum.add(means)
    if line.rest:
        if vectors:
            z += z_apart
            t += t_apart
        changes = terms = means = zero
        s = centered(load_first(z, line.rest, <real> -rows.center[line.row]), load_first(t, line.rest, <real> 0),
                     &center[0], exactly, inverse, scales, exact, &spread)
        store(c, change(s, reduce_exponent(s), load(a), exact, &changes, &terms, &means))
        change_sum.add(changes)
        term_sum.add(terms)
        if exact:
            mean_sum.add(means)
    put_sum(line, &change_sum, &rows.changes[0])
    put_sum(line, &term_sum, &rows.terms[0])
    if exact:
        put_sum(line, &mean_sum, &rows.means[0])
    put_maximum(line, spread, &rows.spread[0])


cdef void change_line(const Line* line, double inverse_temperature, PairRows* rows, real tag) noexcept nogil:
    # Sets c_j.
    cdef bint any_exact = False
    cdef Py_ssize_t i
    for i in range(line.row, line.row + line.rows):
        any_exact = any_exact or rows.exact[i] != 0.0
    if any_exact:
        change_vectors(line, inverse_temperature, True, True, rows, tag)
    elif inverse_temperature == 1.0:
        change_vectors(line, inverse_temperature, False, False, rows, tag)
    else:
        change_vectors(line, inverse_temperature, True, False, rows, tag)


cdef void change_again(const Line* line, double inverse_temperature, PairRows* rows, real tag) noexcept nogil:
    # Computes c_j again with the rounding errors of differences, if a row turned out to need them.
    cdef bint any_again = False
    cdef Py_ssize_t i
    for i in range(line.row, line.row + line.rows):
        any_again = any_again or rows.again[i] != 0.0
        rows.exact[i] = rows.exact[i] + rows.again[i]
    if any_again:
        rows.changes[line.row] = rows.terms[line.row] = rows.means[line.row] = rows.spread[line.row] = 0.0
        change_line(line, inverse_temperature, rows, tag)


cdef bint find_careful(PairRows* rows, Py_ssize_t count, double inverse_temperature, real tag) noexcept nogil:
    # Marks rows whose differences are out of exp's range as careful. Returns whether others must be computed again,
    # because their center is large compared with the typical difference under p without the largest class, or with all
    # differences if hardly any weight is left without that class.
    cdef vec[double] zero = splat(0.0), active, others, center, spread, terms
    cdef mask[double] fits, small, large, any_large = less(zero, zero)
    cdef Py_ssize_t i = 0, whole = count - count % lanes(<double> 0)
    cdef bint any_last = False
    while i < count:
        terms = load(&rows.terms[i])
        spread = load(&rows.spread[i])
        others = load(&rows.weights[i]) - load(&rows.top[i])
        center = abs(load(&rows.center[i])) * splat(inverse_temperature)
        fits = at_most(spread, splat(-<double> smallest_normal_exp(tag))) & less(terms, splat(largest_logit(tag)))
        small = (less(zero, load(&rows.exact[i]))
                 | ((less(load(&rows.weights[i]) * splat(1e-6), others) | at_most(center, spread + spread))
                    & at_most(center * center * others, terms * splat(32.0))))
        active = load(&rows.active[i])
        large = less(zero, zero_where(small, zero_unless(fits, active - load(&rows.careful[i]))))
        if i < whole:  # after the last row, numbers are uninitialised
            any_large = any_large | large
        store(&rows.careful[i], select(fits, load(&rows.careful[i]), active))
        store(&rows.again[i], zero_unless(large, active))
        i += lanes(<double> 0)
    for i in range(whole, count):
        any_last = any_last or rows.again[i] != 0.0
    return any_last or any(any_large)


# Results. -------------------------------------------------------------------------------------------------------

cdef void finish_pairs(PairRows* rows, Py_ssize_t count, double temperature, const double* factor, double* value,
                       real tag) noexcept nogil:
    # Losses, and the coefficients of the gradient. Rounding may make a loss slightly negative, so it is clamped to 0.
    cdef vec[double] zero = splat(0.0), one = splat(1.0), squared = splat(temperature * temperature)
    cdef vec[double] smallest = splat(smallest_factor(tag)), largest = splat(0.5 / smallest_factor(tag))
    cdef vec[double] inverse, x, logarithm, rest, mean, loss, slope, size, total, unit
    cdef mask[double] extreme
    cdef Py_ssize_t i = 0
    while i < count:
        inverse = one / load(&rows.weights[i])
        x = load(&rows.changes[i]) * inverse
        logarithm = log1p(x)
        expm1_with_rest(logarithm, &rest)
        mean = load(&rows.moments[i]) * inverse + (load(&rows.first[i]) + load(&rows.center[i]))
        mean = select(less(zero, load(&rows.exact[i])), load(&rows.means[i]) * inverse,
                      mean * splat(1.0 / temperature))
        loss = select(less(x, splat(2.0)), fmsub(load(&rows.terms[i]), inverse, rest), logarithm - mean)
        loss = squared * (max(zero, loss) + load(&rows.excess[i]))
        store(value + i, zero_unless(less(zero, load(&rows.active[i])), loss))
        store(&rows.ratio[i], x)
        slope = (load(factor + i) * splat(temperature)) * (inverse / (one + x))
        size = abs(slope)
        extreme = less(zero, size) & (less(size, smallest) | less(largest, size))
        total = load(&rows.weights[i]) * (one + x)
        unit = select(extreme, inverse_power(total), one)
        store(&rows.slope[i], select(extreme, load(factor + i) * splat(temperature) / (total * unit), slope))
        store(&rows.slope_unit[i], unit)
        store(&rows.factor[i], load(factor + i) + zero * x)  # NaN if the row has no softmax
        i += lanes(<double> 0)


cdef inline Line part_of(const Line* line, Py_ssize_t first, real tag) noexcept nogil:
    # The part of a long row that begins at vector `first`.
    cdef Line part = line[0]
    cdef Py_ssize_t skipped = first * lanes(tag)
    part.z = <const real*> line.z + skipped
    part.t = <const real*> line.t + skipped
    part.a = <real*> line.a + skipped
    part.c = <real*> line.c + skipped
    part.to = line.to + skipped * sizeof(real)
    if line.kept != NULL:
        part.kept = line.kept + skipped
    part.vectors = line.vectors - first
    if part.vectors > DIVERGENCE_PART // lanes(tag):
        part.vectors = DIVERGENCE_PART // lanes(tag)
        part.rest = 0
    return part


cdef void change_long_row(const Line* line, double temperature, const double* factor, PairRows* rows, double* value,
                          real tag) noexcept nogil:
    # Works part by part, so that the logits are still in the cache when the changes are computed. The center is that of
    # the first part, unless that of the whole row turns out to be much better.
    cdef Py_ssize_t first = 0
    cdef double inverse_temperature = 1.0 / temperature, center, center_low, exact, moved
    cdef Line part
    while first < line.vectors:
        part = part_of(line, first, tag)
        weigh_line(&part, inverse_temperature, rows, tag)
        if first == 0:
            find_centers(rows, 1, inverse_temperature, tag)
        change_line(&part, inverse_temperature, rows, tag)
        first += part.vectors
    center = rows.center[0]
    center_low = rows.center_low[0]
    exact = rows.exact[0]
    finish_pairs(rows, 1, temperature, factor, value, tag)
    if find_centers(rows, 1, inverse_temperature, tag):
        center_dominated(line, rows, tag)
    moved = rows.center[0] - center
    if rows.careful[0] != 0.0 or moved * moved <= 2.0 * value[0]:
        rows.center[0] = center
        rows.center_low[0] = center_low
        rows.exact[0] = exact
        return
    rows.changes[0] = rows.terms[0] = rows.means[0] = rows.spread[0] = 0.0
    change_line(line, inverse_temperature, rows, tag)
