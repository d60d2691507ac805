# The KL divergence of rows whose classes are spread over shards: the summary of a shard's part of a row, the merging of
# two summaries, and the gradient of one shard from the merged summary.
# Needs divergence_careful.pxi.
#
# The summary of a shard's classes has the sums of both softmaxes, each relative to its largest logit; their log-ratio
# r, log sum exp(z_j / T) - log sum exp(t_j / T); and the divergence D of the two softmaxes over its classes alone.
# Two parts have the shares P_1, P_2 of the teacher's probability and Q_1, Q_2 of the student's. With l_s = log Q_s -
# log P_s the chain rule of the divergence,
#     D = P_1 D_1 + P_2 D_2 + P_1 (expm1(l_1) - l_1) + P_2 (expm1(l_2) - l_2),
# has no term below 0. If part 1 has the larger share of the teacher, and d = r_2 - r_1,
#     r = r_1 + log1p(v),    v = P_2 expm1(d) = P_1 Q_2 / Q_1 - P_2,    l_1 = -log1p(v),    l_2 = d - log1p(v)
# where nothing cancels: v >= -1/2, and log1p(v) lies between 0 and d, near d only if d is large. In that case r is
# r_2 + log(P_2 / Q_2). If all logits of the student are 100 above the teacher's, r is 100 plus a small number whose
# digits all count, so it is kept as the sum of two numbers.

cdef enum:  # numbers of a row, in double; all NaN if a part lacks one of the softmaxes because of NaN or +inf
    TEACHER_MAXIMUM = 0    # the largest logit over T; -inf without any class
    TEACHER_SUM = 1        # of exp((t_j - max t) / T)
    STUDENT_MAXIMUM = 2
    STUDENT_SUM = 3
    LOG_RATIO = 4          # 0 if one of the sums is 0
    LOG_RATIO_LOW = 5
    PART_DIVERGENCE = 6    # +inf if the student excludes a class that the teacher allows
    SUMMARY = 7


cdef inline void two_product(double a, double b, double* high, double* low) noexcept nogil:
    cdef double product = a * b
    low[0] = product_error(splat(a), splat(b), splat(product))[0] if fabs(product) < 1e300 else 0.0
    high[0] = product


cdef inline void two_quotient(double a, double b, double* high, double* low) noexcept nogil:
    # a / b as its rounded value and the rounding error, so that b times their sum is a.
    cdef double quotient = a / b, product, error
    two_product(quotient, b, &product, &error)
    low[0] = ((a - product) - error) / b if fabs(product) < INFINITY else 0.0
    high[0] = quotient


cdef inline double log_plus_one(double x) noexcept nogil:
    return log1p(splat(x))[0] if x < 1e15 else log(splat(x))[0]


cdef inline double divergence_term(double share, double other_share, double log_ratio) noexcept nogil:
    # share (expm1(l) - l), where other_share is share exp(l).
    cdef vec[double] x = splat(log_ratio)
    if fabs(log_ratio) < 1.0:
        expm1_with_rest(x, &x)
        return share * x[0]
    return (other_share - share) - (share * log_ratio if share > 0.0 else 0.0)


cdef inline void write_summary(const Batch* batch, Py_ssize_t row, const double* numbers) noexcept nogil:
    cdef int k
    for k in range(SUMMARY):
        batch.summaries[k * batch.summaries_apart + row] = numbers[k]


cdef inline void read_summary(const Batch* batch, Py_ssize_t row, double* numbers) noexcept nogil:
    cdef int k
    for k in range(SUMMARY):
        numbers[k] = batch.whole_rows[k * batch.summaries_apart + row]


# A shard's part. ------------------------------------------------------------------------------------------------

cdef inline void empty_summary(double* to) noexcept nogil:
    to[TEACHER_MAXIMUM] = to[STUDENT_MAXIMUM] = -INFINITY
    to[TEACHER_SUM] = to[STUDENT_SUM] = to[LOG_RATIO] = to[LOG_RATIO_LOW] = to[PART_DIVERGENCE] = 0.0


cdef inline void write_empty_summary(const Batch* batch, Py_ssize_t row) noexcept nogil:
    cdef double numbers[SUMMARY]
    empty_summary(&numbers[0])
    write_summary(batch, row, &numbers[0])


cdef inline void no_summary(double* to) noexcept nogil:
    cdef int k
    for k in range(SUMMARY):
        to[k] = NAN


cdef inline double scaled_maximum(double maximum, double temperature, double* sum) noexcept nogil:
    # The largest logit over T, rounded. The sum of exponentials, which is relative to it, takes the rounding error. The
    # result is finite for a finite logit: an infinite one would mean that there is no class, or no softmax.
    cdef double scaled, low
    two_quotient(maximum, temperature, &scaled, &low)
    if fabs(maximum) < INFINITY == fabs(scaled):
        return LARGEST_DOUBLE if maximum > 0.0 else -LARGEST_DOUBLE
    if fabs(low) < 1.0:  # otherwise no digit of the logits is below 1
        sum[0] *= exp(splat(low))[0]
    return scaled


cdef void summarise_row(const PairRows* rows, Py_ssize_t i, double divergence, double temperature, real tag,
                        double* to) noexcept nogil:
    # From the sums over these classes of a row that was computed with care, and their divergence.
    cdef double inverse_temperature = 1.0 / temperature
    cdef double teacher_sum = inverse_exp_scale(tag) * rows.weights[i]
    cdef double student_sum = inverse_exp_scale(tag) * rows.student[i]
    cdef double teacher = scaled_maximum(rows.highest[i], temperature, &teacher_sum)
    cdef double student = scaled_maximum(rows.student_highest[i], temperature, &student_sum)
    cdef double center, center_low
    empty_summary(to)
    if not (teacher < INFINITY and student < INFINITY):
        no_summary(to)
        return
    to[TEACHER_MAXIMUM] = teacher
    to[STUDENT_MAXIMUM] = student
    to[TEACHER_SUM] = teacher_sum
    to[STUDENT_SUM] = student_sum
    if teacher == -INFINITY or student == -INFINITY:
        to[PART_DIVERGENCE] = INFINITY if teacher > -INFINITY else 0.0
        return
    two_quotient(rows.center[i], -temperature, &center, &center_low)
    center_low -= rows.center_low[i] * inverse_temperature
    two_sum(center, center_low + log_plus_one(rows.changes[i] / rows.weights[i]), &to[LOG_RATIO], &to[LOG_RATIO_LOW])
    to[PART_DIVERGENCE] = divergence


# Two parts. -----------------------------------------------------------------------------------------------------

cdef inline double share_of(const double* summary, int which, double maximum) noexcept nogil:
    # The sum that belongs to the maximum summary[which], relative to another maximum.
    if summary[which] == maximum:
        return summary[which + 1]
    return summary[which + 1] * exp(splat(summary[which] - maximum))[0]


cdef void merge_summaries(const double* a, const double* b, double* to) noexcept nogil:
    # Each argument has SUMMARY numbers.
    cdef const double* swapped
    cdef double teacher = a[TEACHER_MAXIMUM] if a[TEACHER_MAXIMUM] > b[TEACHER_MAXIMUM] else b[TEACHER_MAXIMUM]
    cdef double student = a[STUDENT_MAXIMUM] if a[STUDENT_MAXIMUM] > b[STUDENT_MAXIMUM] else b[STUDENT_MAXIMUM]
    cdef double teacher_a, teacher_b, student_a, student_b, teacher_sum, student_sum, p_a, p_b, q_b
    cdef double d = 0.0, d_low = 0.0, v, log_ratio, value
    cdef int k
    cdef bint is_bad = False, comparable
    for k in range(SUMMARY):
        is_bad = is_bad or a[k] != a[k] or b[k] != b[k]
    if is_bad:
        no_summary(to)
        return
    empty_summary(to)
    teacher_a, teacher_b = share_of(a, TEACHER_MAXIMUM, teacher), share_of(b, TEACHER_MAXIMUM, teacher)
    student_a, student_b = share_of(a, STUDENT_MAXIMUM, student), share_of(b, STUDENT_MAXIMUM, student)
    if teacher_a < teacher_b:
        swapped = a
        a = b
        b = swapped
        teacher_a, teacher_b = teacher_b, teacher_a
        student_a, student_b = student_b, student_a
    teacher_sum = teacher_a + teacher_b
    student_sum = student_a + student_b
    to[TEACHER_MAXIMUM] = teacher
    to[TEACHER_SUM] = teacher_sum
    to[STUDENT_MAXIMUM] = student
    to[STUDENT_SUM] = student_sum
    if teacher_sum == 0.0:  # the student's sum counts once other parts are merged
        return
    if a[PART_DIVERGENCE] == INFINITY or b[PART_DIVERGENCE] == INFINITY:
        to[PART_DIVERGENCE] = INFINITY
    if student_sum == 0.0:
        return
    p_a, p_b, q_b = teacher_a / teacher_sum, teacher_b / teacher_sum, student_b / student_sum
    comparable = b[TEACHER_SUM] != 0.0 and b[STUDENT_SUM] != 0.0
    if comparable:
        two_sum(b[LOG_RATIO], -a[LOG_RATIO], &d, &d_low)
        d_low += b[LOG_RATIO_LOW] - a[LOG_RATIO_LOW]
        two_sum(d, d_low, &d, &d_low)
    if comparable and student_a < 0.25 * student_b and p_a * p_b > student_a / student_sum * q_b + 1e-290:
        # Most of the student is in b, and enough of the teacher for r to be nearer to b's ratio than to that of a.
        log_ratio = log(splat(p_b / q_b))[0]  # -l_2
        two_sum(b[LOG_RATIO], b[LOG_RATIO_LOW] + log_ratio, &to[LOG_RATIO], &to[LOG_RATIO_LOW])
        log_ratio += d + d_low
    elif student_a <= 1e-290 * student_b:
        # All of the student is in b, where the teacher has next to nothing: nothing cancels.
        value = (student - teacher) + log(splat(student_sum / teacher_sum))[0]
        two_sum(value, 0.0, &to[LOG_RATIO], &to[LOG_RATIO_LOW])
        log_ratio = value - a[LOG_RATIO]
    else:
        if comparable and fabs(d) < 1.0:
            v = p_b * (expm1(splat(d))[0] + d_low)
        else:
            v = p_a * (student_b / student_a) - p_b
        log_ratio = log_plus_one(v)
        two_sum(a[LOG_RATIO], a[LOG_RATIO_LOW] + log_ratio, &to[LOG_RATIO], &to[LOG_RATIO_LOW])
    if to[PART_DIVERGENCE] == INFINITY:
        return
    value = p_a * a[PART_DIVERGENCE] + p_b * b[PART_DIVERGENCE]
    value += divergence_term(p_a, student_a / student_sum, -log_ratio)
    if b[TEACHER_SUM] == 0.0:
        value += q_b  # the limit for p_b = 0
    else:
        value += divergence_term(p_b, q_b, (d - log_ratio) + d_low)
    to[PART_DIVERGENCE] = value if value > 0.0 else 0.0


cdef void merge_rows(const double* a, const double* b, Py_ssize_t rows, double* to) noexcept nogil:
    # Each argument has SUMMARY contiguous arrays.
    cdef double of_a[SUMMARY]
    cdef double of_b[SUMMARY]
    cdef double merged[SUMMARY]
    cdef Py_ssize_t row
    cdef int k
    for row in range(rows):
        for k in range(SUMMARY):
            of_a[k] = a[k * rows + row]
            of_b[k] = b[k * rows + row]
        merge_summaries(&of_a[0], &of_b[0], &merged[0])
        for k in range(SUMMARY):
            to[k * rows + row] = merged[k]


# From the whole to one shard. -----------------------------------------------------------------------------------

cdef inline bint has_both(const double* whole) noexcept nogil:
    # Whether a row has both softmaxes. If a logit is NaN, so is the sum, but not the maximum.
    return (fabs(whole[TEACHER_MAXIMUM]) < INFINITY and fabs(whole[STUDENT_MAXIMUM]) < INFINITY
            and whole[TEACHER_SUM] == whole[TEACHER_SUM] and whole[STUDENT_SUM] == whole[STUDENT_SUM])


cdef inline double sum_relative_to(const double* whole, int which, double reference,
                                   double temperature) noexcept nogil:
    cdef double scaled, low
    two_quotient(reference, temperature, &scaled, &low)
    return whole[which + 1] * exp(splat((whole[which] - scaled) - (low if fabs(low) < 1.0 else 0.0)))[0]


cdef inline real nearest_logit(double x, real limit) noexcept nogil:
    return limit if x > limit else -limit if x < -limit else <real> x


cdef void take_highest(PairRows* rows, Py_ssize_t i, const double* whole, double temperature,
                       real tag) noexcept nogil:
    # Sets the logits that the exponentials of a shard are relative to.
    cdef real limit = <real> largest_logit(tag)
    rows.highest[i] = nearest_logit(whole[TEACHER_MAXIMUM] * temperature, limit)
    rows.student_highest[i] = nearest_logit(whole[STUDENT_MAXIMUM] * temperature, limit)


cdef double center_shard(PairRows* rows, Py_ssize_t i, const double* whole, double temperature,
                         real tag) noexcept nogil:
    # Sets the sums and the center to those of the whole row. The center is -T r, rounded to the working precision.
    # Returns what rounding takes from r: a change of all classes.
    cdef double inverse_temperature = 1.0 / temperature, high, low, ratio = 0.0
    cdef double student = sum_relative_to(whole, STUDENT_MAXIMUM, rows.student_highest[i], temperature)
    rows.weights[i] = sum_relative_to(whole, TEACHER_MAXIMUM, rows.highest[i], temperature)
    two_product(whole[LOG_RATIO], -temperature, &high, &low)
    put_center(rows, i, high, low - whole[LOG_RATIO_LOW] * temperature, tag)
    if fabs(high) < INFINITY:
        two_quotient(rows.center[i], temperature, &high, &low)
        ratio = (high + whole[LOG_RATIO]) + (low + (whole[LOG_RATIO_LOW] + rows.center_low[i] * inverse_temperature))
    if fabs(ratio) > 1.0:  # logits beyond 1e15: s_j is then large for each class with a probability, and not needed
        ratio = 0.0
    rows.scale[i] = rows.weights[i] / student * exp(splat(ratio))[0]
    rows.weights[i] = rows.weights[i] / inverse_exp_scale(tag) if has_both(whole) else NAN
    return ratio
