# The softmax losses: from row statistics to the loss and the coefficients of the write pass.
# Needs passes.pxi.
#
# With e_j = exp(u_j - m), R = sum of all e_j except one maximum (sum_without_pivot), S = 1 + R and R_j = R + (1 - e_j)
# = S - e_j, no 1 - p is ever formed: 1 - p_j = R_j / S keeps its digits when p_j rounds to 1. A kernel may multiply all
# e_j of a row by a number, and leave out the target instead of a maximum. Then `pivots` are the exponentials that it
# left out, which take the place of the 1 above. Every loss here writes
#     grad_j = row_scale * ((softmax_coefficient - t_j) e_j - t_j R_j),    t_j: soft target mass, 0 if none
#     hess_j = hess_product * e_j R_j + hess_square * e_j^2
# and replaces both at a hard label y by grad_at_label and hess_at_label.
# There are few rows compared with elements, so double costs little and makes an error analysis unnecessary.

cdef inline void divide_sums(RowBlock* block, Py_ssize_t rows, const double* pivots, bint of_rest,
                             bint double_precision) noexcept nogil:
    # 1 / S, the inputs of log_of_total, and for the focal loss 1 / sum_without_label unless that is 0. For a
    # float32 result, one division gives all three: products of their divisors are normal numbers in double, and its
    # rounding errors do not matter. Divisions and logarithms have separate loops: with shorter chains of operations, a
    # processor works on more of them at once.
    cdef vec[double] one = splat(1.0), zero = splat(0.0), m, pivot, sum_without_pivot, total, rest, numerator
    cdef vec[double] denominator, divided
    cdef Py_ssize_t i = 0
    while i < rows:
        m = load(&block.maximum[i])
        pivot = load(pivots + i)
        # m - m is NaN if the row contains +inf or only -inf, else 0.
        sum_without_pivot = load(&block.sum_without_pivot[i]) + (m - m)
        total = pivot + sum_without_pivot
        rest = one
        if of_rest:
            rest = sum_without_pivot + (pivot - load(&block.target_exp[i]))
            rest = select(equal(rest, zero), one, rest)
        if double_precision:
            store(&block.inverse[i], one / total)
            if of_rest:
                store(&block.rest_inverse[i], one / rest)
            store(&block.quotient[i], sum_without_pivot / pivot)
        else:
            store(&block.exponent[i], quotient_parts(sum_without_pivot, pivot, total, &numerator, &denominator))
            divided = one / (denominator * (total * rest))
            store(&block.inverse[i], denominator * rest * divided)
            if of_rest:
                store(&block.rest_inverse[i], denominator * total * divided)
            store(&block.quotient[i], numerator * (total * rest) * divided)
        i += lanes(<double> 0)


cdef inline vec[double] log_of_total(const RowBlock* block, Py_ssize_t i, bint double_precision) noexcept nogil:
    # log(S / pivot).
    if double_precision:
        return log1p(load(&block.quotient[i]))
    return log_of_quotient(load(&block.quotient[i]), load(&block.exponent[i]))


cdef inline vec[double] log_of_sum(vec[double] sum_without_pivot, vec[double] pivot,
                                   bint double_precision) noexcept nogil:
    # log(S / pivot) alone.
    cdef vec[double] numerator, denominator, k
    if double_precision:
        return log1p(sum_without_pivot / pivot)
    k = quotient_parts(sum_without_pivot, pivot, pivot + sum_without_pivot, &numerator, &denominator)
    return log_of_quotient(numerator / denominator, k)


cdef inline bint is_plain_cross_entropy(const Batch* batch) noexcept nogil:
    return not (is_soft(batch) or batch.z_loss != 0.0 or batch.log_sum_exp or batch.hess.data)


cdef inline void finish_cross_entropy(const Batch* batch, RowBlock* block, Py_ssize_t i, const double* pivots,
                                      bint double_precision, bint plain, bint wants_values,
                                      bint wants_derivatives) noexcept nogil:
    # loss = sum_c target_c (lse - u_c) + z_loss lse^2 with lse - u_c = (m - u_c) + log(S / pivot). Soft target mass and
    # z_loss are left out if they are 0 for all rows. With `plain` the caller knows that they are 0, so no vector needs
    # a test.
    cdef bint soft_targets = not plain and is_soft(batch)
    cdef vec[double] zero = splat(0.0), two_z = splat(2.0 * batch.z_loss)
    cdef vec[double] pivot = load(pivots + i)
    cdef vec[double] m = load(&block.maximum[i])
    cdef vec[double] sum_without_pivot = load(&block.sum_without_pivot[i]) + (m - m)
    cdef vec[double] hard = load(&block.hard_mass[i])
    cdef vec[double] softmax_coefficient = hard, coefficient_less_target = zero, target_mass = hard, soft = zero
    cdef vec[double] log_total, lse, total, value, e, inverse, row_scale, sum_without_label, square, product
    if soft_targets:
        soft = load(&block.soft_mass[i])
        target_mass = load(&block.soft_at_target[i])
        softmax_coefficient = hard + soft
        coefficient_less_target = soft - target_mass
        target_mass = hard + target_mass
    if wants_values:
        log_total = log_of_total(block, i, double_precision)
        # zero_unless: a class of weight 0 has no loss, even if its logit is -inf.
        value = zero_unless(less(zero, hard), hard * ((m - load(&block.target_logit[i])) + log_total))
        value = fma(soft, log_total, value)
        if soft_targets:
            value = value + load(&block.soft_gap[i])
        if not plain and (batch.z_loss != 0.0 or batch.log_sum_exp):
            lse = m + log_total
            # Infinite if the maximum is; only the loss is NaN then.
            total = load(&block.sum_without_pivot[i])
            store(&block.log_sum_exp[i], select(equal(abs(m), splat(<double> INFINITY)) & equal(total, total), m, lse))
            if batch.z_loss != 0.0:  # only then does the gradient have to wait for the logarithm
                value = value + splat(batch.z_loss) * lse * lse
                store(&block.lse_coefficient[i], two_z * lse)
                softmax_coefficient = softmax_coefficient + two_z * lse
                coefficient_less_target = coefficient_less_target + two_z * lse
        store(&block.value[i], value)
    if not wants_derivatives:
        return
    inverse = load(&block.inverse[i]) if wants_values else splat(1.0) / (pivot + sum_without_pivot)
    e = load(&block.target_exp[i])
    sum_without_label = sum_without_pivot + (pivot - e)
    row_scale = load(&block.factor[i]) * inverse
    store(&block.softmax_coefficient[i], softmax_coefficient)
    store(&block.row_scale[i], row_scale)
    store(&block.grad_at_label[i],
          row_scale * subtract_product(coefficient_less_target * e, target_mass, sum_without_label))
    if not plain and batch.hess.data != NULL:
        product = softmax_coefficient * row_scale * inverse
        square = two_z * row_scale * inverse
        store(&block.hess_product[i], product)
        store(&block.hess_square[i], square)
        store(&block.hess_at_label[i], product * e * sum_without_label + square * e * e)


cdef inline bint wants_only_their_sum(const Batch* batch) noexcept nogil:
    # Whether the losses are those of hard labels, and only their unweighted sum is wanted. Losses of longer rows are
    # added one by one.
    return (batch.kind == CROSS_ENTROPY and batch.loss == NULL and batch.class_weight == NULL
            and batch.sample_weight.data == NULL and batch.classes <= SHORT_ROW and not is_soft(batch)
            and batch.z_loss == 0.0 and batch.log_sum_exp == NULL and batch.others == NULL)


cdef double sum_of_losses(const RowBlock* block, const double* pivots, Py_ssize_t rows, bint has_logits,
                          bint double_precision) noexcept nogil:
    # The sum of the values above, over whole vectors; rows past the last one have a loss of 0. With x =
    # sum_without_pivot / pivot for one row and y for another, log1p(x) + log1p(y) = log1p(x + y + x y), in which
    # nothing cancels. So several rows share one division, because x and y may remain fractions, and one logarithm.
    # Their product must be in the range of double: in float32, 1 + x is at most e^127 times the number of classes, in
    # float64 e^200 times this number.
    cdef vec[double] zero = splat(0.0), one = splat(1.0), sum = zero, above = zero, below = one
    cdef vec[double] sum_without_pivot, pivot, m
    cdef int most = 3 if double_precision else 4, together = 0
    cdef Py_ssize_t i = 0
    while i < rows:
        if together == most:
            sum = sum + log_of_sum(above, below, double_precision)
            above = zero
            below = one
            together = 0
        sum_without_pivot = load(&block.sum_without_pivot[i])
        pivot = load(pivots + i)
        if has_logits:  # otherwise all logits are relative to the target's
            m = load(&block.maximum[i])
            sum_without_pivot = sum_without_pivot + (m - m)  # NaN if it is infinite
            sum = sum + (m - load(&block.target_logit[i]))
        above = fma(above, pivot + sum_without_pivot, sum_without_pivot * below)  # a chain of one operation
        below = below * pivot
        together += 1
        i += lanes(<double> 0)
    return reduce_add(sum + log_of_sum(above, below, double_precision))


cdef inline vec[double] power(vec[double] q, double gamma, bint double_precision) noexcept nogil:
    # q^gamma. exp(gamma log q) has an error of |gamma log q| / 2 ULP of double: negligible for a float32 result, but up
    # to 400 ULP for a float64 one. Products have at most 4 ULP.
    cdef vec[double] result = splat(1.0)
    cdef int k, halves = <int> (2.0 * gamma) if gamma <= 4.0 else 1
    if 0.5 * halves == gamma:
        for k in range(halves // 2):
            result = result * q
        return result * sqrt(q) if halves % 2 else result
    if double_precision:
        return power_of_fraction(q, gamma)
    return exp(splat(gamma) * log(q))


cdef inline void finish_focal(RowBlock* block, Py_ssize_t i, const double* pivots, double gamma,
                              bint double_precision, bint wants_hess) noexcept nogil:
    # p = p_y, q = 1 - p = sum_without_label / S, ce = -log p:
    #     loss = alpha q^gamma ce
    #     grad_j = A (delta_jy - p_j),      A = -alpha q^gamma (1 + gamma p ce / q)
    #     hess_jj = p B (delta_jy - p_j)^2 - A p_j (1 - p_j)
    #     B = dA/dp = alpha gamma q^(gamma-1) (2 - ce + (gamma-1) p ce / q)
    # ce / q tends to 1 as q underflows, and p ce to 0 as p does.
    cdef vec[double] one = splat(1.0), zero = splat(0.0), g = splat(gamma), pivot = load(pivots + i)
    cdef vec[double] m = load(&block.maximum[i])
    cdef vec[double] sum_without_pivot = load(&block.sum_without_pivot[i]) + (m - m)
    cdef vec[double] e = load(&block.target_exp[i])
    cdef vec[double] alpha = load(&block.hard_mass[i])
    cdef vec[double] factor = load(&block.factor[i])
    cdef vec[double] sum_without_label = sum_without_pivot + (pivot - e)
    cdef mask[double] is_certain
    cdef vec[double] p, q, ce, p_ce, ratio, modulation, inverse_q, a, p_b_q, p_b, square, largest, nothing
    cdef vec[double] log_total = log_of_total(block, i, double_precision), inverse = load(&block.inverse[i])
    p = e * inverse
    q = sum_without_label * inverse
    is_certain = equal(q, zero)
    ce = (m - load(&block.target_logit[i])) + log_total
    nothing = sum_without_pivot - sum_without_pivot  # 0; NaN if the row contains NaN or +inf
    p_ce = select(equal(p, zero), nothing, p * ce)
    inverse_q = (pivot + sum_without_pivot) * load(&block.rest_inverse[i])
    ratio = select(is_certain, p, p_ce / q if double_precision else p_ce * inverse_q)
    modulation = power(q, gamma, double_precision)
    a = -(alpha * modulation * (one + g * ratio))
    store(&block.value[i], select(equal(alpha * modulation, zero), nothing, alpha * modulation * ce))
    store(&block.log_sum_exp[i], m + log_total)
    store(&block.softmax_coefficient[i], -a)
    store(&block.row_scale[i], factor * inverse)
    store(&block.grad_at_label[i], factor * a * q)
    if not wants_hess:
        return
    p_b_q = alpha * g * modulation * (p + p - p_ce + (g - one) * p * ratio)
    p_b = select(is_certain, zero, p_b_q / q if double_precision else p_b_q * inverse_q)
    store(&block.hess_product[i], -(factor * a * inverse * inverse))
    square = factor * p_b * inverse * inverse
    # q^(gamma-1) may be too large for the working precision and is then multiplied by e_j^2 = 0: avoids inf * 0.
    largest = splat(LARGEST_DOUBLE if double_precision else LARGEST_FLOAT)
    square = select(less(largest, abs(square)), flip_sign(largest, square), square)
    store(&block.hess_square[i], square)
    store(&block.hess_at_label[i], factor * (zero_where(is_certain, p_b_q * q) - a * p * q))


cdef inline void finish_log_sum_exp(RowBlock* block, Py_ssize_t i, const double* pivots, bint double_precision,
                                    bint logs, bint wants_value) noexcept nogil:
    # value = lse, +inf and -inf included; gradient = softmax, NaN there. log_softmax needs log S.
    cdef vec[double] one = splat(1.0), infinity = splat(<double> INFINITY)
    cdef vec[double] m = load(&block.maximum[i]), pivot = load(pivots + i)
    cdef vec[double] sum_without_pivot = load(&block.sum_without_pivot[i])
    cdef vec[double] log_total = one, value
    if wants_value or logs:
        log_total = log_of_total(block, i, double_precision)
        value = select(equal(abs(m), infinity) & equal(sum_without_pivot, sum_without_pivot), m, m + log_total)
        store(&block.value[i], value)
        store(&block.log_sum_exp[i], value)
    store(&block.softmax_coefficient[i], log_total + (m - m) if logs else one)
    store(&block.row_scale[i], load(&block.factor[i]) / (pivot + sum_without_pivot + (m - m)))
    store(&block.grad_at_label[i], one)


cdef inline void finish_rows(const Batch* batch, RowBlock* block, Py_ssize_t rows, const double* pivots,
                             bint double_precision, bint wants_values, bint wants_derivatives) noexcept nogil:
    cdef bint plain = batch.kind == CROSS_ENTROPY and is_plain_cross_entropy(batch)
    cdef Py_ssize_t i = 0
    if batch.kind == FOCAL:
        divide_sums(block, rows, pivots, True, double_precision)
    elif wants_values or batch.kind == LOG_SOFTMAX:
        divide_sums(block, rows, pivots, False, double_precision)
    while plain and i < rows:
        finish_cross_entropy(batch, block, i, pivots, double_precision, True, wants_values, wants_derivatives)
        i += lanes(<double> 0)
    while i < rows:
        if batch.kind == CROSS_ENTROPY:
            finish_cross_entropy(batch, block, i, pivots, double_precision, False, wants_values, wants_derivatives)
        elif batch.kind == FOCAL:
            finish_focal(block, i, pivots, batch.gamma, double_precision, batch.hess.data != NULL)
        else:
            finish_log_sum_exp(block, i, pivots, double_precision, batch.kind == LOG_SOFTMAX, wants_values)
        i += lanes(<double> 0)
