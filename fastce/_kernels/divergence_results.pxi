# KL divergence: the gradient and the Hessian of rows, from their changes and numbers.
# Needs divergence_rows.pxi.

cdef inline vec[real] counted(const Line* line, Py_ssize_t i, vec[real] active, vec[real] x) noexcept nogil:
    # 0 at masked classes and in rows that do not count.
    if line.kept != NULL:
        x = zero_unless(load_mask(line.kept + i * line.apart, <real> 0), x)
    return zero_unless(less(splat(<real> 0), active), x)


cdef void gradient_of_line(const Line* line, const PairRows* rows, bint all_count, real* grad, Py_ssize_t grad_apart,
                           real tag) noexcept nogil:
    # Writes (q - p) times T and the factor.
    cdef const real* a = <const real*> line.a
    cdef const real* c = <const real*> line.c
    cdef vec[real] ratio = for_rows(line, &rows.ratio[0], tag), slope = for_rows(line, &rows.slope[0], tag)
    cdef vec[real] active = for_rows(line, &rows.active[0], tag), unit = for_rows(line, &rows.slope_unit[0], tag), x
    cdef Py_ssize_t i = 0, vectors = line.vectors if all_count else 0, apart = line.apart
    while i < vectors:
        store(grad, (subtract_product(load(c), load(a), ratio) * unit) * slope)
        a += apart
        c += apart
        grad += grad_apart
        i += 1
    while i < steps_of(line):
        x = counted(line, i, active, (subtract_product(load(c), load(a), ratio) * unit) * slope)
        if i < line.vectors:
            store(grad, x)
        else:
            store_first(grad, line.rest, x)
        a += line.apart
        c += line.apart
        grad += grad_apart
        i += 1


cdef void hessian_of_line(const Line* line, PairRows* rows, double inverse_temperature, real* e, real* hess,
                          real tag) noexcept nogil:
    # q_j (1 - q_j). The sum of all others is computed for each class, so no 1 - q is formed. `hess` may be e. Logits in
    # exp's range are relative to 0. Others are relative to the largest of their row, and their exponentials are raised.
    cdef vec[real] one = splat(<real> 1), inverse = splat(<real> inverse_temperature), x, y
    cdef vec[real] low = splat(<real> INFINITY), high = -low, reference, unit, others, top, factor
    cdef vec[real] active = for_rows(line, &rows.active[0], tag)
    cdef wide_sum[real] sum, ties
    cdef mask[real] fits
    cdef bint all_fit
    cdef vec[double] total, pivot
    cdef Py_ssize_t i
    for i in range(steps_of(line)):
        x = vector_of(line, line.z, line.z_apart, i, read(<const real*> line.z))
        low = min(x, low)
        high = max(x, high)
    if not line.by_classes:
        low = splat(-reduce_max(-low))
        high = splat(reduce_max(high))
    fits = (at_most(splat(safe_range_lowest(tag)), low * inverse) & at_most(splat(<real> -30), high * inverse)
            & at_most(high * inverse, splat(safe_range_highest(tag))))
    # Rows past the last one, which hold anything, must not choose the way.
    all_fit = not any(less(select(fits, one, -one), one) & less(splat(<real> 0), active))
    reference = zero_where(fits, high)
    top = exp((high - reference) * inverse)
    top = select(fits, top, top * splat(<real> (1.0 / inverse_exp_scale(tag))))
    for i in range(steps_of(line)):
        x = vector_of(line, line.z, line.z_apart, i, <real> -INFINITY)
        y = (x - reference) * inverse
        y = exp(y) if all_fit else select(fits, exp(y), raised_exp(y))
        store(e + i * line.apart, y)
        sum.add(zero_where(equal(x, high), y))
        ties.add(zero_unless(equal(x, high), one))
    rows.others[line.row] = rows.ties[line.row] = rows.top[line.row] = 0.0
    put_sum(line, &sum, &rows.others[0])
    put_sum(line, &ties, &rows.ties[0])
    put_maximum(line, top, &rows.top[0])
    i = line.row
    while i < line.row + line.rows:
        pivot = load(&rows.top[i])
        total = load(&rows.others[i]) + pivot * (load(&rows.ties[i]) - splat(1.0))
        store(&rows.others[i], total / (total + pivot))
        store(&rows.unit[i], splat(1.0) / (total + pivot))
        i += lanes(<double> 0)
    unit = for_rows(line, &rows.unit[0], tag)
    others = for_rows(line, &rows.others[0], tag)
    factor = for_rows(line, &rows.factor[0], tag)
    top = top * unit  # as y is below for the largest logit, so that their difference is 0
    for i in range(steps_of(line)):
        y = load(<const real*> e + i * line.apart) * unit
        y = counted(line, i, active, (y * (others + (top - y))) * factor)
        if i < line.vectors:
            store(hess + i * line.apart, y)
        else:
            store_first(hess + i * line.apart, line.rest, y)
