# Rows so long that each is a run by itself: stages 1 and 2 process them chunk by chunk, while a chunk is in the
# first-level cache.
# Needs exponentials.pxi, statistics.pxi.

cdef enum:  # what is assumed about the logits of a row
    IN_RANGE = 0
    IN_RANGE_WITH_HOLES = 1  # apart from some that are -inf
    OUT_OF_RANGE_OF_EXP = 2


cdef inline double total_of(vec[double] float_sum, wide_sum[double]* sum, real tag) noexcept nogil:
    return reduce_add(float_sum) if real is float else sum.total()


cdef bint sum_in_chunks(const Scratch* s, real* e, int taken, bint is_sure, bint exactly, real highest,
                        long long* pivot, double* pivot_exp, double* sum_without_pivot,
                        RowMoments* moments) noexcept nogil:
    # The exponentials of a row, and their sum without the pivot's. A pivot of -1 becomes the class of the largest
    # logit. Returns False at the first chunk that is not in range, unless `is_sure` says that the assumption `taken`
    # holds. Out of range, the exponentials are relative to the highest logit, and the pivot is given.
    cdef const real* u = <const real*> s.logits
    cdef const char* ahead
    cdef Py_ssize_t first = 0, count, at
    cdef bint wants_largest = pivot[0] < 0, is_in_range = taken != OUT_OF_RANGE_OF_EXP
    cdef real extremes[32]
    cdef vec[double] float_sum = splat(0.0)
    cdef wide_sum[double] sum
    cdef double passed_over = 0.0  # exponentials that were pivots until a larger logit appeared
    cdef real at_pivot, largest = 0, largest_before = <real> -INFINITY
    cdef long long where_largest = 0
    pivot_exp[0] = 0.0
    while first < s.classes:
        count = min_size(CHUNK, s.classes - first)
        # If exponentials are in scratch, the logits of the next chunk need prefetching. If the gradient is read and
        # written meanwhile, prefetching slows it down (`python -m bench -k 1024x32000`).
        ahead = <const char*> (u + first) + (ROWS_AHEAD * sizeof(real) if s.logits != s.u and not s.in_gradient else 0)
        begin_extremes(&extremes[0])
        if taken == OUT_OF_RANGE_OF_EXP:
            row_out_of_range(u + first, count, highest, e)
        elif taken == IN_RANGE:
            exponentials_without_holes(u + first, count, e, ahead, <const char*> e, &extremes[0])
        else:
            exponentials_with_holes(u + first, count, e, ahead, <const char*> e, &extremes[0])
        if not is_sure and not are_in_range(&extremes[0]):
            return False
        at = pivot[0] - first
        if wants_largest:
            largest = (reduce_max(load(<const real*> &extremes[lanes(highest)])) if taken == IN_RANGE
                       else extremes_of_row(u + first, count, <real*> NULL))
            at = position_of(u + first, count, largest) if largest > largest_before else -1
        at_pivot = 0
        if 0 <= at < count:
            at_pivot = e[at]
            e[at] = 0
        if moments != NULL:
            if first == 0:
                begin_moments(moments, highest, unit_for(0.0, 1.0 / inverse_exp_scale(highest), is_in_range, highest),
                              taken != IN_RANGE)
            if wants_largest and 0 <= at < count:
                move_reference(moments, largest, total_of(float_sum, &sum, highest) + passed_over + pivot_exp[0],
                               pivot_exp[0], unit_for(largest, at_pivot, is_in_range, highest))
            add_chunk(u + first, <const real*> e, first, count, moments)
        if real is float:
            float_sum = float_sum + row_sum(<const float*> e, <const float*> e, splat(<float> 0), count, exactly, False)
        else:
            add_doubles(<const double*> e, <const double*> e, splat(0.0), count, False, False, &sum)
        if 0 <= at < count:
            e[at] = at_pivot
            if wants_largest:
                passed_over += pivot_exp[0]
                largest_before = largest
                where_largest = first + at
            pivot_exp[0] = at_pivot
        first += count
        if s.keeps_exponentials:
            e += count
    if wants_largest:
        pivot[0] = where_largest
    sum_without_pivot[0] = total_of(float_sum, &sum, highest) + passed_over
    return True


cdef void find_pivot_of_long_row(const Batch* batch, Scratch* s, RowBlock* block, real* e) noexcept nogil:
    # Computes the exponentials of a row that counts, its pivot, and the sum without it.
    cdef const real* u = <const real*> s.logits
    cdef bint exactly = batch.kind == FOCAL
    cdef real lowest = 0, highest = 0
    cdef RowMoments of_row
    cdef RowMoments* moments = NULL
    s.pivot[0] = -1 if s.largest_pivot else max_size(block.label[0], 0)
    if s.pivot[0] >= 0 and not read(u + s.pivot[0]) > -INFINITY:  # nothing can be relative to -inf
        s.pivot[0] = -1
    if s.statistics != NULL:
        moments = &of_row
        moments.label = block.label[0]
        moments.target_logit = read(u + max_size(block.label[0], 0))
    s.in_range = False
    if not s.mostly_out:
        if not s.holes:
            s.in_range = sum_in_chunks(s, e, IN_RANGE, False, exactly, highest, s.pivot, s.pivot_exp,
                                       &block.sum_without_pivot[0], moments)
        if not s.in_range:
            s.in_range = sum_in_chunks(s, e, IN_RANGE_WITH_HOLES, False, exactly, highest, s.pivot, s.pivot_exp,
                                       &block.sum_without_pivot[0], moments)
            s.holes = s.in_range
    if not s.in_range:
        highest = extremes_of_row(u, s.classes, &lowest)
        s.mostly_out = is_out_of_range(lowest, highest)
        if s.mostly_out:
            s.pivot[0] = position_of(u, s.classes, highest)
        sum_in_chunks(s, e, OUT_OF_RANGE_OF_EXP if s.mostly_out else IN_RANGE_WITH_HOLES, True, exactly, highest,
                      s.pivot, s.pivot_exp, &block.sum_without_pivot[0], moments)
    if moments != NULL:
        put_moments(moments, s.pivot_exp[0], s.statistics)


cdef void soft_sums_of_long_row(const Scratch* s, real reference, double* mass, double* distance_sum) noexcept nogil:
    # The mass of the row's soft targets, and the sum of t (m - u).
    cdef const real* u = <const real*> s.logits
    cdef const real* t = <const real*> s.targets
    cdef vec[real] m = splat(reference)
    cdef vec[double] masses = splat(0.0), distances = splat(0.0)
    cdef wide_sum[double] exact_masses, exact_distances
    cdef Py_ssize_t first = 0, count
    while first < s.classes:
        count = min_size(CHUNK, s.classes - first)
        if real is float:
            masses = masses + row_sum(t, t, m, count, False, False)
            distances = distances + row_sum(u, t, m, count, False, True)
        else:
            add_doubles(t, t, m, count, False, False, &exact_masses)
            add_doubles(u, t, m, count, False, True, &exact_distances)
        u += count
        t += count
        first += count
    if real is float:
        mass[0] = reduce_add(masses)
        distance_sum[0] = reduce_add(distances)
    else:
        mass[0] = exact_masses.total()
        distance_sum[0] = exact_distances.total()
