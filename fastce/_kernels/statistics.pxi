# More statistics of the softmax p of a row, from the exponentials and logits that are in the cache after stages 1 and
# 2. With the largest logit m and the distances d_j = m - u_j >= 0, in which nothing cancels,
#     entropy  = log(S / exp m) + sum p_j d_j,    S = sum of exp u_j
#     variance = sum p_j d_j^2 - (sum p_j d_j)^2, of the logits under p
# The mean of the logits under p is the log-sum-exp minus the entropy. The largest class is the pivot: it adds nothing
# to the sums of distances, and is left out of the sum of squares.
# Needs rows.pxi, sums.pxi.

cdef enum:  # statistics of a row, in double; NaN if the row has no softmax
    TOP_PROB = 0       # p of the largest class; before finish_statistics, the sum of exp(u_j) d_j
    ENTROPY = 1        # before, the sum of exp(u_j) d_j^2
    OTHER_SQUARES = 2  # sum of p_j^2 over all classes except the largest
    RANK = 3           # classes ranked before the target: larger logits, and equal ones with a higher index
    VARIANCE = 4
    STATISTICS = 5
    MOMENTS = 4        # the first four, which finish_statistics computes from sums stored in their place


cdef struct RowMoments:
    # Sums over a row, or its first part, without the largest exponential.
    double reference        # the largest logit so far
    double distance         # sum of exp(u_j) (reference - u_j)
    double square_distance
    double square           # sum of (exp(u_j) times the unit)^2
    double unit             # 1, or a power of two that brings the largest exponential close to 1
    bint simple             # whether the unit is 1 and no logit is -inf
    double rank
    long long label         # -1 for none
    double target_logit


cdef inline double unit_for(double reference, double largest_exp, bint in_range, real tag) noexcept nogil:
    # 1 if possible: squares of exponentials in exp's safe range are finite, and those of probabilities above 1e-15 are
    # normal numbers.
    return 1.0 if in_range and reference > -8.0 else inverse_power(splat(largest_exp))[0]


cdef inline void begin_moments(RowMoments* moments, double reference, double unit, bint holes) noexcept nogil:
    # Sets all except the label and its logit.
    moments.reference = reference
    moments.distance = moments.square_distance = moments.square = moments.rank = 0.0
    moments.unit = unit
    moments.simple = unit == 1.0 and not holes


cdef inline void move_reference(RowMoments* moments, double to, double exps, double largest_exp,
                                double unit) noexcept nogil:
    # Moves the reference to a larger logit. `largest_exp` is the exponential of the previous one, and `exps` the sum of
    # all so far.
    cdef double shift = to - moments.reference, change = unit / moments.unit
    if exps > 0.0:
        moments.square_distance += shift * (2.0 * moments.distance + shift * exps)
        moments.distance += shift * exps
        moments.square = moments.square * change * change + (largest_exp * unit) * (largest_exp * unit)
    moments.reference = to
    moments.unit = unit
    moments.simple = moments.simple and unit == 1.0


cdef inline void add_vector(vec[real] e, vec[real] u, vec[real] reference, vec[real] unit, vec[real] threshold,
                            bint simple, vec[real]* sums, vec[real]* reached) noexcept nogil:
    # Adds a vector of classes to the moments, and counts the logits that reach the threshold.
    cdef vec[real] zero = splat(<real> 0), d = reference - u, t, scaled = e
    if not simple:
        d = zero_unless(less(zero, e), d)  # avoids 0 times infinity
        scaled = e * unit
    t = e * d
    sums[0] = sums[0] + t
    sums[1] = fma(t, d, sums[1])
    sums[2] = fma(scaled, scaled, sums[2])
    reached[0] = add_where(at_most(threshold, u), reached[0], splat(<real> 1))


cdef inline vec[double] all_parts(wide_vec[real] wide) noexcept nogil:
    cdef vec[double] sum = wide.part[0]
    cdef int k
    for k in range(1, wide.parts):
        sum = sum + wide.part[k]
    return sum


cdef vec[double] count_equal(const real* u, Py_ssize_t count, real number) noexcept nogil:
    # Counts per lane.
    cdef int width = lanes(number)
    cdef vec[real] wanted = splat(number), one = splat(<real> 1), found = splat(<real> 0)
    cdef Py_ssize_t i = 0
    while i + width <= count:
        found = add_where(equal(load(u + i), wanted), found, one)
        i += width
    if i < count:
        found = add_where(equal(load_first(u + i, count - i, <real> NAN), wanted), found, one)
    return all_parts(widen_lanes(found))


cdef inline void add_segment(const real* u, const real* e, Py_ssize_t count, const RowMoments* moments,
                             Py_ssize_t at, bint simple, vec[double]* to, int apart) noexcept nogil:
    # Sets the lanes of MOMENTS vectors. Blocks of 32 vectors are summed in two halves before they are widened. Ties
    # rank by the higher index, as in scikit-learn: equal logits after the target, which is at `at`, rank before it, and
    # so do those of this segment if the target lies before it.
    cdef int width = lanes(<real> 0), block = 32 * width
    cdef real target = <real> moments.target_logit, larger = next_above(target)
    cdef vec[real] r = splat(<real> moments.reference), s = splat(<real> moments.unit), least
    cdef vec[real] zero = splat(<real> 0), reached = zero, reached_2 = zero
    cdef vec[real] sums[3]
    cdef vec[real] sums_2[3]
    cdef wide_sum[real] distance, square_distance, square
    cdef Py_ssize_t i = 0, stop, rest
    while i < count:
        stop = min_size(i + block, count)
        least = splat(target if at < i else larger)
        sums[0] = sums[1] = sums[2] = sums_2[0] = sums_2[1] = sums_2[2] = zero
        while i + 2 * width <= stop:
            add_vector(load_once(e + i), load_once(u + i), r, s, least, simple, &sums[0], &reached)
            add_vector(load_once(e + i + width), load_once(u + i + width), r, s, least, simple, &sums_2[0],
                       &reached_2)
            i += 2 * width
        while i < stop:
            rest = min_size(width, stop - i)
            add_vector(load_first(e + i, rest, <real> 0), load_first(u + i, rest, <real> NAN), r, s, least, False,
                       &sums[0], &reached)
            i += width
        distance.add(sums[0] + sums_2[0])
        square_distance.add(sums[1] + sums_2[1])
        square.add(sums[2] + sums_2[2])
    to[TOP_PROB * apart] = all_parts(distance.lanes())
    to[ENTROPY * apart] = all_parts(square_distance.lanes())
    to[OTHER_SQUARES * apart] = all_parts(square.lanes())
    to[RANK * apart] = all_parts(widen_lanes(reached + reached_2))
    if 0 <= at < count:  # ties in the target's own block
        stop = min_size(at - at % block + block, count)
        to[RANK * apart] = to[RANK * apart] + count_equal(u + at + 1, stop - at - 1, target)


cdef void add_lanes(const real* u, const real* e, Py_ssize_t first, Py_ssize_t count, const RowMoments* moments,
                    vec[double]* to, int apart) noexcept nogil:
    # For the part of a row that begins at class `first`. Two loops, so that each can use all registers.
    if moments.simple:
        add_segment(u, e, count, moments, moments.label - first, True, to, apart)
    else:
        add_segment(u, e, count, moments, moments.label - first, False, to, apart)


cdef void add_chunk(const real* u, const real* e, Py_ssize_t first, Py_ssize_t count,
                    RowMoments* moments) noexcept nogil:
    cdef vec[double] sums[MOMENTS]
    add_lanes(u, e, first, count, moments, &sums[0], 1)
    moments.distance += reduce_add(sums[TOP_PROB])
    moments.square_distance += reduce_add(sums[ENTROPY])
    moments.square += reduce_add(sums[OTHER_SQUARES])
    moments.rank += reduce_add(sums[RANK])


cdef inline void put_moments(const RowMoments* moments, double pivot, double* to) noexcept nogil:
    # The squares are those of exponentials times the power of two that belongs to the pivot, as finish_statistics takes
    # them: the squares themselves may be too large.
    cdef double change = inverse_power(splat(pivot))[0] / moments.unit
    to[TOP_PROB * BLOCK_ROWS] = moments.distance
    to[ENTROPY * BLOCK_ROWS] = moments.square_distance
    to[OTHER_SQUARES * BLOCK_ROWS] = moments.square * change * change
    to[RANK * BLOCK_ROWS] = moments.rank


cdef void moments_by_classes(const Scratch* s, Py_ssize_t first, Py_ssize_t rows, const RowBlock* block,
                             const real* e, double* to) noexcept nogil:
    # Moments of the rows from `first` on, of a run packed class by class. After the last row, they come from
    # uninitialised exponentials and pivots; write_statistics does not copy them.
    cdef const real* u = <const real*> s.logits + first * s.logits_row_apart
    cdef const real* reference = <const real*> s.row[REFERENCE] + first
    cdef const real* label = <const real*> s.row[LABEL] + first
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1), this_class, x, y, d, t, z, taken, unit, before
    cdef vec[real] distance, square_distance, square
    cdef wide_sum[real] nothing, distances, square_distances, squares
    cdef double units[16]
    cdef Py_ssize_t i = 0, j, stop
    cdef int k
    e += first
    while i < rows:
        distances = square_distances = squares = nothing
        taken = before = this_class = zero
        for k in range(lanes(<real> 0) // lanes(<double> 0)):
            store(units + k * lanes(<double> 0),
                  inverse_power(load(<const double*> s.pivot_exp + first + i + k * lanes(<double> 0))))
        unit = load_narrowed(<const double*> units, <real> 0)
        t = load_narrowed(<const double*> &block.target_logit[i], <real> 0)
        j = 0
        while j < s.classes:
            stop = min_size(j + 8, s.classes)
            distance = square_distance = square = zero
            while j < stop:
                z = load_rest(u + j * s.logits_class_apart + i, rows - i, <real> 0)
                x = load(e + j * s.exps_apart + i)
                d = zero_unless(less(zero, x), load(reference + i) - z)
                y = x * d
                distance = distance + y
                square_distance = fma(y, d, square_distance)
                x = without_pivot(x, zero, zero, &taken, True)
                x = x * unit
                square = fma(x, x, square)
                before = add_where(less(t, z) | (equal(t, z) & less(load(label + i), this_class)), before, one)
                this_class = this_class + one
                j += 1
            distances.add(distance)
            square_distances.add(square_distance)
            squares.add(square)
        store_wide(to + TOP_PROB * BLOCK_ROWS + i, distances.lanes())
        store_wide(to + ENTROPY * BLOCK_ROWS + i, square_distances.lanes())
        store_wide(to + OTHER_SQUARES * BLOCK_ROWS + i, squares.lanes())
        store_widened(to + RANK * BLOCK_ROWS + i, before)
        i += lanes(<real> 0)


cdef void moments_by_rows(const Scratch* s, Py_ssize_t rows, const RowBlock* block, real* e,
                          double* to) noexcept nogil:
    # Moments of a block of rows with contiguous exponentials, for as many rows at once as a vector of doubles has
    # lanes.
    cdef const real* u = <const real*> s.logits
    cdef RowMoments moments
    cdef bint holes = s.holes or not s.in_range
    cdef int together = lanes(<double> 0), k, j
    cdef vec[double] of_rows[32]
    cdef vec[double] change
    cdef double units[8]
    cdef Py_ssize_t row = 0
    for k in range(8):
        units[k] = 1.0
    for k in range(32):
        of_rows[k] = splat(0.0)
    for row in range(rows):  # all before any is read: loading a vector would wait for a number just stored
        e[row * s.classes + s.pivot[row]] = 0
    row = 0
    while row < rows:
        for k in range(<int> min_size(together, rows - row)):
            units[k] = unit_for(block.maximum[row + k], s.pivot_exp[row + k], s.in_range, <real> 0)
            begin_moments(&moments, block.maximum[row + k], units[k], holes)
            moments.label = block.label[row + k]
            moments.target_logit = block.target_logit[row + k]
            add_lanes(u, <const real*> e, 0, s.classes, &moments, &of_rows[k], together)
            u += s.classes
            e += s.classes
        for j in range(MOMENTS):
            store(to + j * BLOCK_ROWS + row, sums_of_lanes(&of_rows[j * together]))
        change = inverse_power(load(<const double*> s.pivot_exp + row)) / load(<const double*> &units[0])
        store(to + OTHER_SQUARES * BLOCK_ROWS + row,
              load(<const double*> to + OTHER_SQUARES * BLOCK_ROWS + row) * change * change)
        row += together


cdef inline void finish_statistics(const RowBlock* block, Py_ssize_t rows, const double* pivots,
                                   double* to) noexcept nogil:
    # Turns moments into statistics, in place.
    cdef vec[double] one = splat(1.0), zero = splat(0.0), m, pivot, others, inverse, distance, square, bad, unit
    cdef Py_ssize_t i = 0
    while i < rows:
        m = load(&block.maximum[i])
        pivot = load(pivots + i)
        others = load(&block.sum_without_pivot[i])
        bad = (m - m) + (others - others)  # NaN if the row has no softmax
        others = others + bad
        inverse = one / (pivot + others)
        distance = load(<const double*> to + TOP_PROB * BLOCK_ROWS + i) * inverse
        square = load(<const double*> to + ENTROPY * BLOCK_ROWS + i) * inverse
        store(to + TOP_PROB * BLOCK_ROWS + i, pivot / (pivot + others))  # exactly 1/2 for two equal classes, say
        store(to + ENTROPY * BLOCK_ROWS + i, log1p(others / pivot) + distance)
        store(to + VARIANCE * BLOCK_ROWS + i, max(zero, subtract_product(square, distance, distance)) + bad)
        square = load(<const double*> to + OTHER_SQUARES * BLOCK_ROWS + i)
        unit = inverse_power(pivot)
        inverse = one / (pivot * unit + others * unit)
        store(to + OTHER_SQUARES * BLOCK_ROWS + i, (square * inverse) * inverse)
        store(to + RANK * BLOCK_ROWS + i, load(<const double*> to + RANK * BLOCK_ROWS + i) + bad)
        i += lanes(<double> 0)


cdef void write_statistics(const Batch* batch, const Scratch* s, Py_ssize_t row, Py_ssize_t first, Py_ssize_t rows,
                           const RowBlock* block, real* e) noexcept nogil:
    # For the rows from `first` on of a run, which are the rows from `row` on of the batch.
    cdef double* to = s.statistics
    cdef int k
    if s.by_classes:
        moments_by_classes(s, first, rows, block, <const real*> e, to)
    elif not s.is_long:  # find_pivot_of_long_row has stored its moments already
        moments_by_rows(s, rows, block, e, to)
    finish_statistics(block, rows, s.pivot_exp + first, to)
    for k in range(STATISTICS):
        write_rows(batch.statistics + k * batch.statistics_apart, row, rows, to + k * BLOCK_ROWS)
