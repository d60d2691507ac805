# The changes of rows that need care: from the exponentials of teacher and student, relative to their largest logits,
# and from differences without a rounding error. If only some rows of a vector need it, the others keep their numbers.
# Needs divergence_rows.pxi.

cdef void find_highest(const Line* line, PairRows* rows, real tag) noexcept nogil:
    cdef vec[real] teacher = splat(<real> -INFINITY), student = teacher
    cdef Py_ssize_t i
    for i in range(steps_of(line)):
        teacher = max(vector_of(line, line.t, line.t_apart, i, <real> -INFINITY), teacher)
        student = max(vector_of(line, line.z, line.z_apart, i, <real> -INFINITY), student)
    put_maximum(line, teacher, &rows.highest[0])
    put_maximum(line, student, &rows.student_highest[0])


cdef inline vec[real] relative_exp(vec[real] x, vec[real] top, vec[real] inverse_temperature) noexcept nogil:
    return select(equal(x, top), splat(<real> (1.0 / inverse_exp_scale(<real> 0))),
                  raised_exp((x - top) * inverse_temperature))


cdef inline void put_chosen(const Line* line, const PairRows* rows, const wide_sum[real]* sum,
                            double* to) noexcept nogil:
    # Stores the sums of the rows that need care.
    cdef double sums[BLOCK_ROWS]
    cdef Py_ssize_t i
    sums[line.row] = 0.0
    put_sum(line, sum, &sums[0])
    for i in range(line.row, line.row + line.rows):
        if rows.careful[i] != 0.0:
            to[i] = sums[i]


cdef void weigh_carefully(const Line* line, double inverse_temperature, PairRows* rows, real* b,
                          real tag) noexcept nogil:
    # a_j, and the student's exponentials b_j, both raised and relative to the largest logits of the row.
    cdef vec[real] inverse = splat(<real> inverse_temperature), zero = splat(<real> 0), x
    cdef vec[real] none = splat(<real> -INFINITY), teacher = for_rows(line, &rows.highest[0], tag)
    cdef vec[real] student = for_rows(line, &rows.student_highest[0], tag)
    cdef mask[real] chosen = less(zero, for_rows(line, &rows.careful[0], tag))
    cdef wide_sum[real] teacher_sum, student_sum
    cdef real* a = <real*> line.a
    cdef Py_ssize_t i
    teacher = zero_where(equal(teacher, none), teacher)  # so that the sum over no classes is 0
    student = zero_where(equal(student, none), student)
    for i in range(steps_of(line)):
        x = relative_exp(vector_of(line, line.t, line.t_apart, i, <real> -INFINITY), teacher, inverse)
        store(a, select(chosen, x, load(<const real*> a)))
        teacher_sum.add(x)
        x = relative_exp(vector_of(line, line.z, line.z_apart, i, <real> -INFINITY), student, inverse)
        store(b, x)
        student_sum.add(x)
        a += line.apart
        b += lanes(tag)
    put_chosen(line, rows, &teacher_sum, &rows.weights[0])
    put_chosen(line, rows, &student_sum, &rows.student[0])


cdef inline void two_sum(double a, double b, double* high, double* low) noexcept nogil:
    # a + b as its rounded value and the rounding error (Knuth).
    cdef double sum = a + b, b_part = sum - a
    low[0] = (a - (sum - b_part)) + (b - b_part) if fabs(sum) < INFINITY else 0.0
    high[0] = sum


cdef inline void put_center(PairRows* rows, Py_ssize_t i, double high, double low, real tag) noexcept nogil:
    cdef vec[double] x = rounded(splat(high) + splat(low), tag)
    rows.center[i] = high
    rows.center_low[i] = 0.0
    if fabs(x[0]) <= largest_logit(tag):  # else logits are at opposite ends of the range
        rows.center[i] = x[0]
        rows.center_low[i] = rounded((splat(high) - x) + splat(low), tag)[0]


cdef void center_carefully(PairRows* rows, Py_ssize_t i, double temperature, real tag) noexcept nogil:
    # The center makes the two sums equal, unless one class dominates both.
    cdef double high, low, rest = 0.0, raising = 1.0 / inverse_exp_scale(tag)
    rows.scale[i] = 1.0
    if not (rows.highest[i] < INFINITY and rows.student_highest[i] < INFINITY):
        rows.weights[i] = NAN
    if not (DOMINANT * rows.weights[i] < raising and 0.0 < DOMINANT * rows.student[i] < raising):
        rows.scale[i] = rows.weights[i] / rows.student[i]
        rest = temperature * log(splat(rows.scale[i]))[0]
    two_sum(rows.highest[i], -rows.student_highest[i], &high, &low)
    put_center(rows, i, high, low + rest, tag)


cdef void change_carefully(const Line* line, double inverse_temperature, PairRows* rows, const real* b,
                           real tag) noexcept nogil:
    # If s_j is not small, c_j is the scaled exponential of the student minus that of the teacher, in which nothing
    # cancels. If s_j is huge, its product with the raised a_j would overflow, so it is lowered and summed apart.
    cdef vec[real] inverse = splat(<real> inverse_temperature), none = splat(<real> -INFINITY)
    cdef vec[real] limit = splat(<real> largest_logit(tag)), one = splat(<real> 1), zero = splat(<real> 0)
    cdef vec[real] excluded = zero
    cdef vec[real] scale = for_rows(line, &rows.scale[0], tag), center_low = for_rows(line, &rows.center_low[0], tag)
    cdef vec[real] center = max(-limit, min(limit, for_rows(line, &rows.center[0], tag)))
    cdef vec[real] z, t, d, low, s, a, c, rest, lowered
    cdef double lowering = 2.0 ** -80 if real is float else 2.0 ** -600
    cdef vec[real] bound = splat(<real> (2.0 ** 40 if real is float else 2.0 ** 400)), lower = splat(<real> lowering)
    cdef mask[real] chosen = less(zero, for_rows(line, &rows.careful[0], tag)), near, huge
    cdef wide_sum[real] changes, terms, excess, distant
    cdef double sums[BLOCK_ROWS]
    cdef Py_ssize_t i
    for i in range(steps_of(line)):
        z = vector_of(line, line.z, line.z_apart, i, <real> -INFINITY)
        t = vector_of(line, line.t, line.t_apart, i, <real> -INFINITY)
        a = load(<const real*> line.a + i * line.apart)
        d = difference(z, t, &low)
        s = ((d + center) + (low + center_low)) * inverse
        s = select(at_most(abs(d), limit), s, d)  # the rounding error of an infinite difference is NaN
        s = zero_where(equal(z, none) & equal(t, none), max(-limit, min(limit, s)))
        excluded = select(equal(z, none) & less(none, t), one, excluded)
        near = less(abs(s), one)
        c = expm1_with_rest(max(-one, min(one, s)), &rest)
        c = select(near, a * c, load(b) * scale - a)
        huge = less(bound, abs(s))
        rest = select(near, a * rest, subtract_product(c, a, zero_where(huge, s)))
        lowered = ((z * lower - t * lower) + center * lower) * inverse
        distant.add(zero_unless(huge, a * max(-limit, min(limit, -lowered))))
        changes.add(c)
        terms.add(rest)
        store(<real*> line.c + i * line.apart, select(chosen, c, load(<const real*> line.c + i * line.apart)))
        b += lanes(tag)
    excess.add(select(less(zero, excluded), splat(<real> INFINITY), zero))
    put_chosen(line, rows, &changes, &rows.changes[0])
    put_chosen(line, rows, &terms, &rows.terms[0])
    put_chosen(line, rows, &excess, &rows.excess[0])
    put_chosen(line, rows, &distant, &sums[0])
    for i in range(line.row, line.row + line.rows):
        if rows.careful[i] != 0.0 and not sums[i] <= 0.0:  # below 0 only if the center was limited
            rows.excess[i] += sums[i] / rows.weights[i] / lowering
