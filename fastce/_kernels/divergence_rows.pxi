# KL divergence of the softmax of two arrays of logits, the student's and its teacher's, row by row.
# Needs passes.pxi, exponentials.pxi.
#
# With z the student's logits, t the teacher's, T the temperature, p = softmax(t / T), q = softmax(z / T) and
# l_j = log q_j - log p_j,
#     loss   = T^2 sum_j p_j (expm1(l_j) - l_j),      every term >= 0
#     grad_j = T p_j expm1(l_j)
# None of these is a difference of two probabilities, unless l_j is so large that nothing cancels. A row has
#     s_j = (z_j - t_j + center) / T,                 l_j minus a number that is the same for all classes
#     a_j = exp(t_j / T), times any number,           A = sum of a_j
#     c_j = a_j expm1(s_j),                           C = sum of c_j: the change from teacher to student
# and has p_j = a_j / A, q_j = (a_j + c_j) / (A + C), hence l_j = s_j - L with L = log1p(x), x = C / A, and
#     q_j - p_j = (c_j - a_j x) / (A + C)
#     sum_j p_j (expm1(l_j) - l_j) = sum_j a_j (expm1(s_j) - s_j) / A - (x - L),    x = expm1(L)
# Both terms of the last line are >= 0. The second is small compared with the first, unless the error of the center is
# larger than the l_j; then the row is computed again, with a center that makes L nearly 0.
# The center is the difference of the two largest logits. So s_j is exactly 0 for a class that leads in both, whose
# gradient then depends on all other classes only. Relative to the center, s_j has all digits of the two logits.

cdef enum:
    VECTORS_TOGETHER = 4        # added before they are widened
    SEGMENT = 512               # elements that several loops process in turn


cdef struct RowSums:
    double weights     # A
    double changes     # C
    double terms       # sum of a_j (expm1(s_j) - s_j)
    # What shards of a row tell each other of it (divergence_shards.pxi): the center as the sum of two numbers, and in a
    # far row the sum of the student's exponentials, each array's relative to its largest logit.
    double center
    double center_low
    double student


cdef struct PairExtremes:
    # Extremes of the logits of one row; the smallest one is over the classes that are not -inf.
    double student_lowest
    double student_highest
    double teacher_lowest
    double teacher_highest
    bint holes


# Elements. ------------------------------------------------------------------------------------------------------

cdef inline vec[real] log_ratio_of(vec[real] z, vec[real] t, vec[real] center, vec[real] center_low,
                                   vec[real] inverse_temperature, bint exactly) noexcept nogil:
    # (z - t + center) / T; with `exactly`, including the rounding error of the difference (Knuth's two-sum).
    cdef vec[real] d = z - t, back, low
    if not exactly:
        return (d + center) * inverse_temperature
    back = z - d
    low = (z - (d + back)) + (back - t)
    return ((d + center) + (low + center_low)) * inverse_temperature


cdef inline vec[real] term_of(vec[real] c, vec[real] a, vec[real] x) noexcept nogil:
    # a (expm1(x) - x), given c = a expm1(x).
    return select(less(abs(x), splat(<real> 1)), expm1_less_argument(x, c), subtract_product(c, a, x))


# Rows. ----------------------------------------------------------------------------------------------------------

cdef PairExtremes begin_row(const real* z, const real* t, Py_ssize_t count, double inverse_temperature, real* a,
                            double* weights) noexcept nogil:
    # The extremes of both rows; and a_j with their sum, as long as the teacher's logits are in exp's safe range.
    # Exponentials and differences have separate loops: with shorter chains of operations, a processor works on more of
    # them at once.
    cdef int width = lanes(<real> 0), k
    cdef vec[real] infinity = splat(<real> INFINITY), inverse = splat(<real> inverse_temperature), x, y, few
    cdef vec[real] z_low = infinity, z_high = -infinity, t_low = infinity, t_high = -infinity
    cdef folded_sum[real] sum
    cdef Py_ssize_t i = 0
    cdef PairExtremes found
    cdef real lowest
    while i < count:
        few = splat(<real> 0)
        for k in range(VECTORS_TOGETHER):
            if i + width <= count:
                x = load(t + i)
                y = load(z + i)
                z_high = max(y, z_high)
                z_low = min(y, z_low)
                t_high = max(x, t_high)
                t_low = min(x, t_low)
                y = exp_in_safe_range(x * inverse)
                few = few + y
                store(a + i, y)
            elif i < count:
                z_high = max(load_first(z + i, count - i, <real> -INFINITY), z_high)
                z_low = min(load_first(z + i, count - i, <real> INFINITY), z_low)
                t_high = max(load_first(t + i, count - i, <real> -INFINITY), t_high)
                t_low = min(load_first(t + i, count - i, <real> INFINITY), t_low)
                store(a + i, exp_in_safe_range(load_first(t + i, count - i, <real> 0) * inverse))
                few = few + load_first(<const real*> a + i, count - i, <real> 0)
            i += width
        sum.add(few)
    weights[0] = sum.total()
    found.student_highest = reduce_max(z_high)
    found.teacher_highest = reduce_max(t_high)
    found.student_lowest = -reduce_max(-z_low)
    found.teacher_lowest = -reduce_max(-t_low)
    found.holes = found.student_lowest == -INFINITY or found.teacher_lowest == -INFINITY
    if found.holes:
        extremes_of_row(z, count, &lowest)
        found.student_lowest = lowest
        extremes_of_row(t, count, &lowest)
        found.teacher_lowest = lowest
    return found


cdef inline bint are_near(const PairExtremes* row, double inverse_temperature, real tag) noexcept nogil:
    # Whether exponentials are normal numbers without a pivot, including those of the differences of logits. Below
    # e^-30, their products with small differences might not be.
    cdef double reach = -<double> smallest_normal_exp(tag)
    cdef double highest = row.teacher_highest * inverse_temperature
    cdef double lowest = row.teacher_lowest * inverse_temperature
    return (safe_range_lowest(tag) <= lowest and -30.0 <= highest and highest <= safe_range_highest(tag)
            and highest - lowest <= reach
            and (row.student_highest - row.student_lowest) * inverse_temperature <= reach)


cdef inline double rounded(double x, real tag) noexcept nogil:
    # To the digits of the working precision, by arithmetic (Dekker's split). GCC 12 leaves out a cast to float and back
    # where two of them become a vector.
    cdef double c
    if real is double:
        return x
    c = x * 536870913.0  # 2^29 + 1
    return c - (c - x)


cdef inline void center_of(double teacher, double student, double rest, vec[real]* k, RowSums* sums) noexcept nogil:
    # teacher - student + rest as the sum of two numbers of the working precision.
    cdef double d = teacher - student, back = teacher - d
    cdef double low = (teacher - (d + back)) + (back - student)
    cdef double limit = LARGEST_FLOAT if real is float else 1.7e308
    if fabs(d) <= limit:
        sums.center = rounded(d + (low + rest), <real> 0)
        sums.center_low = rounded((d - sums.center) + (low + rest), <real> 0)
        k[0] = splat(<real> sums.center)
        k[1] = splat(<real> sums.center_low)
    else:  # logits at opposite ends of the range
        sums.center = d
        sums.center_low = 0.0
        k[0] = splat(<real> (limit if d > 0.0 else -limit))
        k[1] = splat(<real> 0)


cdef inline void change_vector(const real* z, const real* t, Py_ssize_t count, vec[real] center, vec[real] center_low,
                               vec[real] inverse_temperature, real* a, real* c, real* s, bint exactly, bint holes,
                               vec[real]* a_sum, vec[real]* c_sum, vec[real]* one_sided) noexcept nogil:
    # c and s of a vector of classes of a near row, and the sum of c. With holes, also a and its sum, and `one_sided`
    # becomes nonzero where only one of the two excludes a class. Writes a whole vector.
    cdef vec[real] none = splat(<real> -INFINITY), zero = splat(<real> 0), one = splat(<real> 1)
    cdef vec[real] z_i = load_rest(z, count, <real> 0), t_i = load_rest(t, count, <real> 0), s_i, a_i, c_i
    cdef mask[real] hole, other
    if holes:
        hole = equal(t_i, none)
        other = equal(z_i, none)
        one_sided[0] = max(abs(zero_unless(hole, one) - zero_unless(other, one)), one_sided[0])
        t_i = zero_where(hole, t_i)
        z_i = zero_where(other, z_i)
    s_i = log_ratio_of(z_i, t_i, center, center_low, inverse_temperature, exactly)
    a_i = load(<const real*> a)
    if holes:
        s_i = zero_where(hole, s_i)
        a_i = zero_where(hole, exp_in_safe_range(t_i * inverse_temperature))
        store(a, a_i)
    if count < lanes(<real> 0):
        a_i = load_first(<const real*> a, count, <real> 0)
    c_i = a_i * expm1(s_i)
    store(c, c_i)
    store(s, s_i)
    if holes:
        a_sum[0] = a_sum[0] + a_i
    c_sum[0] = c_sum[0] + c_i


cdef inline bint changes_of_row(const real* z, const real* t, Py_ssize_t count, const vec[real]* center,
                                double inverse_temperature, real* a, real* c, RowSums* sums, bint exactly, bint holes,
                                const char* ahead) noexcept nogil:
    # Returns False if the row turns out to be a far one. Changes and terms have separate loops, too.
    cdef int width = lanes(<real> 0), k
    cdef vec[real] high = center[0], low = center[1], inverse = splat(<real> inverse_temperature)
    cdef vec[real] zero = splat(<real> 0), a_sum, c_sum, one_sided = zero
    cdef folded_sum[real] a_total, c_total, term_total
    cdef real s[SEGMENT]
    cdef Py_ssize_t first = 0, i, stop
    while first < count:
        stop = min_size(first + SEGMENT, count)
        i = first
        while i < stop:
            a_sum = c_sum = zero
            for k in range(VECTORS_TOGETHER):
                if i + width <= stop:
                    if i * <int> sizeof(real) % cache_line == 0:
                        prefetch(ahead + i * sizeof(real))
                    change_vector(z + i, t + i, width, high, low, inverse, a + i, c + i, &s[i - first], exactly, holes,
                                  &a_sum, &c_sum, &one_sided)
                elif i < stop:
                    change_vector(z + i, t + i, stop - i, high, low, inverse, a + i, c + i, &s[i - first], exactly,
                                  holes, &a_sum, &c_sum, &one_sided)
                i += width
            if holes:
                a_total.add(a_sum)
            c_total.add(c_sum)
        i = first
        while i < stop:
            a_sum = zero
            for k in range(VECTORS_TOGETHER):
                if i + width <= stop:
                    a_sum = a_sum + term_of(load(<const real*> c + i), load(<const real*> a + i),
                                            load(<const real*> &s[i - first]))
                elif i < stop:
                    a_sum = a_sum + term_of(load_first(<const real*> c + i, stop - i, <real> 0),
                                            load_first(<const real*> a + i, stop - i, <real> 0),
                                            load(<const real*> &s[i - first]))
                i += width
            term_total.add(a_sum)
        first = stop
    if holes:
        sums.weights = a_total.total()
    sums.changes = c_total.total()
    sums.terms = term_total.total()
    # If the student's sum is less than a quarter of the teacher's, log1p would magnify errors.
    return sums.changes >= -0.75 * sums.weights and not (holes and any(less(zero, one_sided)))


# Not inline, so that each loop can use all registers.
cdef bint changes_of_close_logits(const real* z, const real* t, Py_ssize_t count, const vec[real]* center,
                                  double inverse_temperature, real* a, real* c, RowSums* sums,
                                  const char* ahead) noexcept nogil:
    return changes_of_row(z, t, count, center, inverse_temperature, a, c, sums, False, False, ahead)


cdef bint changes_of_any_logits(const real* z, const real* t, Py_ssize_t count, const vec[real]* center,
                                double inverse_temperature, real* a, real* c, RowSums* sums,
                                const char* ahead) noexcept nogil:
    return changes_of_row(z, t, count, center, inverse_temperature, a, c, sums, True, False, ahead)


cdef bint changes_with_holes(const real* z, const real* t, Py_ssize_t count, const vec[real]* center,
                             double inverse_temperature, real* a, real* c, RowSums* sums,
                             const char* ahead) noexcept nogil:
    return changes_of_row(z, t, count, center, inverse_temperature, a, c, sums, True, True, ahead)


cdef inline bint has_center_apart(const real* z, const real* t, Py_ssize_t count, real center) noexcept nogil:
    # Whether the center is much larger than the differences that it leaves, judged by a few of them: then the
    # differences must be exact.
    cdef int width = lanes(center)
    cdef vec[real] largest = splat(<real> 0)
    cdef Py_ssize_t i = 0
    count = min_size(count, VECTORS_TOGETHER * width)
    while i < count:
        largest = max(largest, abs((load_rest(z + i, count - i, <real> 0) - load_rest(t + i, count - i, center))
                                   + splat(center)))
        i += width
    return not fabs(center) <= 2.0 * reduce_max(largest)


cdef inline bint is_off_center(const RowSums* sums) noexcept nogil:
    # Whether x - log1p(x), which is about x^2 / (2 + 4 x / 3), is most of the sum that it is subtracted from.
    cdef double x = sums.changes / sums.weights
    return x * x > 0.75 * (2.0 + (4.0 / 3.0) * x) * (sums.terms / sums.weights)


cdef bint changes_of_near_row(const real* z, const real* t, Py_ssize_t classes, const PairExtremes* row,
                              double temperature, real* a, real* c, RowSums* sums, const char* ahead) noexcept nogil:
    # Returns False if the row turns out to be a far one.
    cdef vec[real] center[2]
    cdef double inverse_temperature = 1.0 / temperature
    cdef bint is_near
    center_of(row.teacher_highest, row.student_highest, 0.0, &center[0], sums)
    sums.student = NAN
    if row.holes:
        is_near = changes_with_holes(z, t, classes, &center[0], inverse_temperature, a, c, sums, ahead)
    elif has_center_apart(z, t, classes, center[0][0]):
        is_near = changes_of_any_logits(z, t, classes, &center[0], inverse_temperature, a, c, sums, ahead)
    else:
        is_near = changes_of_close_logits(z, t, classes, &center[0], inverse_temperature, a, c, sums, ahead)
    if not is_near or not is_off_center(sums):
        return is_near
    center_of(row.teacher_highest, row.student_highest,
              -temperature * log1p(splat(sums.changes / sums.weights))[0], &center[0], sums)
    if row.holes:
        return changes_with_holes(z, t, classes, &center[0], inverse_temperature, a, c, sums, ahead)
    return changes_of_any_logits(z, t, classes, &center[0], inverse_temperature, a, c, sums, ahead)


cdef double relative_exponentials(const real* u, Py_ssize_t classes, double highest, double inverse_temperature,
                                  real* e) noexcept nogil:
    # Raised exponentials, relative to the largest logit, and their sum.
    cdef int width = lanes(<real> 0)
    cdef vec[real] m = splat(<real> highest), inverse = splat(<real> inverse_temperature), x, y, few
    cdef vec[real] one = splat(<real> (1.0 / inverse_exp_scale(<real> 0)))
    cdef folded_sum[real] sum
    cdef Py_ssize_t i = 0, stop
    while i < classes:
        few = splat(<real> 0)
        stop = min_size(i + VECTORS_TOGETHER * width, classes)
        while i < stop:
            x = load_rest(u + i, stop - i, <real> -INFINITY)
            y = select(equal(x, m), one, raised_exp((x - m) * inverse))
            store(e + i, y)
            few = few + y
            i += width
        sum.add(few)
    return sum.total()


cdef void changes_about_center(const real* z, const real* t, Py_ssize_t classes, const vec[real]* center,
                               double student_scale, double inverse_temperature, real* a, real* c, RowSums* sums,
                               bint* excludes) noexcept nogil:
    # From the exponentials of any row, the teacher's in a and the student's in c. If l_j is not small, c_j is the
    # difference of the student's exponential, scaled, and the teacher's, in which nothing cancels.
    cdef int width = lanes(<real> 0)
    cdef double largest = LARGEST_FLOAT if real is float else 1.7e308
    cdef vec[real] inverse = splat(<real> inverse_temperature), none = splat(<real> -INFINITY)
    cdef vec[real] limit = splat(<real> largest), one = splat(<real> 1), zero = splat(<real> 0), excluded = zero
    cdef vec[real] scale = splat(<real> student_scale), z_i, t_i, s_i, a_i, b_i, c_i, few
    cdef vec[real] few_terms
    cdef folded_sum[real] sum, terms
    cdef Py_ssize_t i = 0, stop
    while i < classes:
        few = few_terms = zero
        stop = min_size(i + VECTORS_TOGETHER * width, classes)
        while i < stop:
            z_i = load_rest(z + i, stop - i, <real> -INFINITY)
            t_i = load_rest(t + i, stop - i, <real> -INFINITY)
            a_i = load(<const real*> a + i)
            b_i = load(<const real*> c + i) * scale
            s_i = log_ratio_of(z_i, t_i, center[0], center[1], inverse, True)
            # The rounding error of an infinite difference is NaN.
            s_i = select(less(abs(z_i - t_i), limit), s_i, z_i - t_i)
            s_i = zero_where(equal(z_i, none) & equal(t_i, none), max(-limit, min(limit, s_i)))
            excluded = select(equal(z_i, none) & less(none, t_i), one, excluded)
            c_i = select(less(abs(s_i), one), a_i * expm1(max(-one, min(one, s_i))), b_i - a_i)
            store(c + i, c_i)
            few = few + c_i
            few_terms = few_terms + term_of(c_i, a_i, s_i)
            i += width
        sum.add(few)
        terms.add(few_terms)
    sums.changes = sum.total()
    sums.terms = terms.total()
    excludes[0] = any(less(zero, excluded))


cdef void changes_of_far_row(const real* z, const real* t, Py_ssize_t classes, const PairExtremes* row,
                             double temperature, real* a, real* c, RowSums* sums, bint* excludes) noexcept nogil:
    # Of any row. Exponentials are relative to the largest logits.
    cdef double rest = 0.0, scale = 1.0, inverse_temperature = 1.0 / temperature
    cdef vec[real] center[2]
    excludes[0] = False
    if not (fabs(row.teacher_highest) < INFINITY and fabs(row.student_highest) < INFINITY):
        memset(a, 0, classes * sizeof(real))
        memset(c, 0, classes * sizeof(real))
        sums.weights = sums.changes = sums.terms = NAN
        return
    sums.weights = relative_exponentials(t, classes, row.teacher_highest, inverse_temperature, a)
    sums.student = relative_exponentials(z, classes, row.student_highest, inverse_temperature, c)
    # Sums that are far apart enter the center; otherwise it remains exactly 0 for the class that leads in both.
    if not 0.5 * sums.weights <= sums.student <= 2.0 * sums.weights:
        scale = sums.weights / sums.student
        rest = temperature * log(splat(scale))[0]
    center_of(row.teacher_highest, row.student_highest, rest, &center[0], sums)
    changes_about_center(z, t, classes, &center[0], scale, inverse_temperature, a, c, sums, excludes)


cdef inline double divergence_of(const RowSums* sums) noexcept nogil:
    # The divergence of a row, to be multiplied by T^2. Rounding may make it slightly negative, so it is at least 0.
    cdef vec[double] x = splat(sums.changes / sums.weights), log_ratio = log1p(x)
    cdef double value = sums.terms / sums.weights - term_of(x, splat(1.0), log_ratio)[0]
    return 0.0 if value < 0.0 else value


cdef void gradient_of_row(const RowSums* sums, Py_ssize_t classes, const real* a, const real* c, double factor,
                          const unsigned char* kept, const char* ahead, real* grad) noexcept nogil:
    # Sets (q - p) times the factor.
    cdef int width = lanes(<real> 0)
    cdef vec[real] ratio = splat(<real> (sums.changes / sums.weights)), change
    cdef vec[real] slope = splat(<real> (factor / (sums.weights + sums.changes)))
    cdef Py_ssize_t i = 0
    while kept == NULL and i + width <= classes:
        prefetch(ahead + i * sizeof(real))
        store(grad + i, subtract_product(load(c + i), load(a + i), ratio) * slope)
        i += width
    while i < classes:
        change = subtract_product(load_rest(c + i, classes - i, <real> 0), load_rest(a + i, classes - i, <real> 0),
                                  ratio) * slope
        if kept != NULL:
            change = zero_unless(load_mask(kept + i, <real> 0), change)
        if i + width <= classes:
            store(grad + i, change)
        else:
            store_first(grad + i, classes - i, change)
        i += width


cdef void hessian_of_row(const real* z, Py_ssize_t classes, const PairExtremes* row, double inverse_temperature,
                         double factor, const unsigned char* kept, real* e, real* hess) noexcept nogil:
    # Sets q_j (1 - q_j), from the sum of all others for each class: no 1 - q is formed. `hess` may be e.
    cdef int width = lanes(<real> 0)
    cdef vec[real] inverse = splat(<real> inverse_temperature), times = splat(<real> factor)
    cdef vec[real] rest, top, y, unit, few
    cdef folded_sum[real] sum
    cdef real pivot = 0
    cdef double others, total, highest = row.student_highest * inverse_temperature
    cdef Py_ssize_t i = 0, where, stop
    if (safe_range_lowest(pivot) <= row.student_lowest * inverse_temperature and -30.0 <= highest
            and highest <= safe_range_highest(pivot) and not row.holes):
        while i < classes:
            store(e + i, exp_in_safe_range(load_rest(z + i, classes - i, <real> 0) * inverse))
            i += width
    else:
        relative_exponentials(z, classes, row.student_highest, inverse_temperature, e)
    pivot = extremes_of_row(<const real*> e, classes, <real*> NULL)
    where = position_of(<const real*> e, classes, pivot)
    e[where] = 0
    i = 0
    while i < classes:
        few = splat(<real> 0)
        stop = min_size(i + VECTORS_TOGETHER * width, classes)
        while i < stop:
            few = few + load_rest(<const real*> e + i, stop - i, <real> 0)
            i += width
        sum.add(few)
    e[where] = pivot
    others = sum.total()
    total = others + pivot
    unit = splat(<real> (1.0 / total))
    rest = splat(<real> (others / total))
    top = splat(pivot) * unit  # like the pivot's own exponential, so that their difference is 0
    i = 0
    while i < classes:
        y = load(<const real*> e + i) * unit
        y = (y * (rest + (top - y))) * times
        if kept != NULL:
            y = zero_unless(load_mask(kept + i, <real> 0), y)
        if i + width <= classes:
            store(hess + i, y)
        else:
            store_first(hess + i, classes - i, y)
        i += width
