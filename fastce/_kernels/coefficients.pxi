# Stage 2 of a run, last part: the soft targets of a block, and the coefficients for stage 3.
# Needs run_passes.pxi, pivots.pxi.

# By how much a unit may exceed the inverse of its row's sum: sums, and what is divided by their squares, stay normal.
cdef double LARGEST_FLOAT_UNIT = 1.329227995784916e36  # 2^120
cdef double LARGEST_DOUBLE_UNIT = 9.7453140114e288  # 2^960

cdef void find_targets(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, real tag) noexcept nogil:
    # The soft target mass of a run, if each row has its own: t_c = w_c ((1 - label_smoothing) q_c + share). A masked
    # class takes no part in label smoothing. If it has a probability, the loss is +inf, as it is for a masked label.
    cdef real* t = <real*> s.t
    cdef real* share = <real*> s.row[SHARE]
    cdef Py_ssize_t segments = s.classes if s.by_classes else 1, count = rows if s.by_classes else rows * s.classes
    cdef Py_ssize_t i, j, k
    cdef real rest = <real> (1.0 - batch.label_smoothing)
    cdef Targets targets
    if batch.probabilities.data != NULL:
        fill_scratch(s, &batch.probabilities, row, rows, t)
        if batch.label_smoothing != 0.0:
            for i in range(segments):
                multiply(<const real*> t + i * s.class_apart, rest, t + i * s.class_apart, count)
    else:
        for i in range(segments):
            memset(t + i * s.class_apart, 0, count * sizeof(real))
    if batch.label_smoothing == 0.0 and batch.class_weight == NULL:
        return
    for i in range(rows):
        share[i] = <real> (batch.label_smoothing / s.classes if batch.label_smoothing else 0.0)
        if s.mask != NULL and batch.label_smoothing != 0.0:
            k = 0
            for j in range(s.classes):
                k += s.mask[i * s.row_apart + j * s.class_apart] != 0
            share[i] = <real> (batch.label_smoothing / k if k else 0.0)
    over_run(batch, s, 0, rows, NULL, t, s.class_apart, <const real*> s.weight, 0, t, s.class_apart, targets)


cdef void find_soft_sums(const Batch* batch, Scratch* s, Py_ssize_t first, Py_ssize_t rows, RowBlock* block,
                         real tag) noexcept nogil:
    # For each row of a block: the mass of its soft targets, the sum of t (m - u), and the mass at its label.
    cdef real* reference = <real*> s.row[REFERENCE] + first
    cdef const real* t = <const real*> s.targets
    cdef const real* u = <const real*> s.logits
    cdef vec[real] infinity = splat(<real> INFINITY), m
    cdef Py_ssize_t i = 0
    narrow_rows(&block.maximum[0], rows, 1.0, reference)
    while i < rows:
        m = load(<const real*> reference + i)
        store(reference + i, zero_unless(less(abs(m), infinity), m))
        i += lanes(tag)
    if s.is_long:
        soft_sums_of_long_row(s, reference[0], &block.soft_mass[0], &block.soft_gap[0])
    elif s.by_classes:
        soft_sums_by_classes(u + first, s.logits_class_apart, t + (first if s.t_apart else 0), s.t_apart,
                             <const real*> reference, s.classes, rows, &block.soft_mass[0], &block.soft_gap[0])
    else:
        distances_by_rows(u, t, <const real*> reference, rows, s.classes, &block.soft_gap[0])
        if s.t_apart:
            sums_by_rows(t, rows, s.classes, False, &block.soft_mass[0], NULL)
    if not s.t_apart:
        for i in range(rows):
            block.soft_mass[i] = s.shared_mass
    for i in range(0 if block.all_active else rows):
        if not block.active[i]:
            block.soft_mass[i] = block.soft_gap[i] = 0.0
    if batch.labels.data == NULL:
        return
    if s.by_classes and s.t_apart:
        numbers_of_classes(s, t + first, s.t_apart, <const real*> s.row[LABEL] + first, &block.label[0], rows,
                           &block.soft_at_target[0])
    else:
        numbers_at(t, 1, 0 if s.by_classes else s.classes, &block.label[0], rows, &block.soft_at_target[0])


cdef inline vec[double] unit_of_large_weights(const Batch* batch, const RowBlock* block, Py_ssize_t i,
                                              vec[double] total, real tag) noexcept nogil:
    # A derivative may be a normal number although the probability is not, if its factor is large. Then the unit is as
    # much larger than the inverse of the sum, and a bit more, unless exponentials times the unit are normal numbers
    # anyway. Focal loss is left out: its coefficients may be tiny themselves.
    cdef double largest = LARGEST_FLOAT_UNIT if real is float else LARGEST_DOUBLE_UNIT
    cdef double chain = fabs(batch.logit_scale), factor = 4.0 * (chain if chain < 1.0 else chain * chain)
    cdef vec[double] one = splat(1.0), mass = load(&block.hard_mass[i])
    if is_soft(batch):
        mass = mass + load(&block.soft_mass[i])
    mass = min(max(mass * abs(load(&block.factor[i])) * splat(factor), one), splat(largest))
    return max(inverse_power(total), min(inverse_power(total * inverse_power(mass)), one))


cdef inline void take_units_out(const Batch* batch, Scratch* s, Py_ssize_t first, Py_ssize_t rows, RowBlock* block,
                                real tag) noexcept nogil:
    # Brings the sum of each row into [1, 2), or above for large weights, for coefficients that square it. This is
    # exact: it multiplies by a power of two.
    cdef vec[double] unit, sum_without_pivot, pivot
    cdef Py_ssize_t i = 0
    while i < rows:
        sum_without_pivot = load(&block.sum_without_pivot[i])
        pivot = load(s.pivot_exp + first + i)
        if s.has_large_weights:
            unit = unit_of_large_weights(batch, block, i, sum_without_pivot + pivot, tag)
        else:
            unit = inverse_power(sum_without_pivot + pivot)
        store(s.unit + i, unit)
        store(&block.sum_without_pivot[i], sum_without_pivot * unit)
        store(s.pivot_exp + first + i, pivot * unit)
        store(&block.target_exp[i], load(&block.target_exp[i]) * unit)
        i += lanes(<double> 0)
    if s.exact:
        narrow_rows(s.unit, rows, 1.0, <real*> s.row[UNIT] + first)


cdef inline bint any_extreme(const RowBlock* block, Py_ssize_t rows, double chain, const double* units,
                             double* factors, real tag) noexcept nogil:
    # Sets the factors that turn exponentials into the gradient. Returns whether any of them is not a normal number.
    cdef vec[double] smallest = splat(smallest_factor(tag)), largest = splat(0.5 / smallest_factor(tag))
    cdef vec[double] zero = splat(0.0), whole, factor, size
    cdef mask[double] extreme = less(zero, zero)
    cdef Py_ssize_t i = 0
    while i < rows:
        whole = load(&block.softmax_coefficient[i]) * load(&block.row_scale[i]) * splat(chain)
        factor = whole * load(units + i) if real is double else whole
        size = abs(factor)
        extreme = extreme | (less(size, smallest) & less(zero, abs(whole))) | less(largest, size)
        store(factors + i, factor)
        i += lanes(<double> 0)
    return any(extreme)


cdef void multiply_extreme_row(const Scratch* s, Py_ssize_t i, real* e, double whole) noexcept nogil:
    # Multiplies by a factor that is not a normal number, in parts: the unit and the rest.
    cdef real* row = <real*> s.stage
    cdef Py_ssize_t size = sizeof(real)
    if not s.by_classes:
        e += i * s.classes
        multiply_in_parts(e, whole, s.unit[i], s.classes)
        return
    e += i
    copy_strided(<const char*> e, s.exps_apart * size, <char*> row, size, size, s.classes)
    multiply_in_parts(row, whole, s.unit[i], s.classes)
    copy_strided(<const char*> row, size, <char*> e, s.exps_apart * size, size, s.classes)


cdef void set_whole_sums(const Scratch* s, Py_ssize_t first, Py_ssize_t rows, const RowBlock* block,
                         real tag) noexcept nogil:
    # The sum S of a row, including the pivot, as two numbers, from which S - e_j keeps its digits unless e_j is nearly
    # all of S. If the pivot is not the target it is the largest exponential, and is simply left out.
    cdef real* high = <real*> s.row[PIVOT] + first
    cdef real* low = <real*> s.row[SUM_WITHOUT_PIVOT] + first
    cdef double others, pivot, total, rounded
    cdef Py_ssize_t i
    for i in range(rows):
        others = s.whole_sum[first + i] * s.unit[i]
        pivot = s.pivot_exp[first + i]
        total = others + pivot
        high[i] = <real> total
        if real is float:
            low[i] = <real> (total - high[i])
        else:
            rounded = total - others
            low[i] = ((others - (total - rounded)) + (pivot - rounded)) + s.whole_low[first + i] * s.unit[i]
    for i in range(0 if s.in_range and not s.holes else rows):
        if block.label[i] != (<long long> (<const real*> s.pivot_class)[first + i] if s.by_classes else s.pivots[i]):
            high[i] = <real> s.pivot_exp[first + i]
            low[i] = <real> block.sum_without_pivot[i]


cdef void find_masked_derivatives(const Batch* batch, const Scratch* s, const RowBlock* block,
                                  Py_ssize_t rows) noexcept nogil:
    # Finds the rows in which derivatives of masked classes must be cleared. Usually they are 0 already: an exponential
    # of 0 times a finite coefficient. But a coefficient may be infinite or NaN, or the label may be masked.
    cdef double coefficients
    cdef Py_ssize_t i
    for i in range(rows):
        coefficients = block.softmax_coefficient[i] * block.row_scale[i]
        if batch.hess.data != NULL:
            coefficients += block.hess_product[i] + block.hess_square[i]
        s.clears[i] = not isfinite(coefficients) or block.target_exp[i] == 0.0


cdef void set_coefficients(const Batch* batch, Scratch* s, Py_ssize_t first, Py_ssize_t rows, RowBlock* block,
                           real* e) noexcept nogil:
    # Sets the numbers of a block that stage 3 needs.
    cdef double chain = batch.logit_scale if batch.softcap == 0.0 else 1.0, whole
    cdef Py_ssize_t i
    cdef real* active
    cdef double* numbers = s.factors
    if batch.kind == LOG_SOFTMAX:
        narrow_rows(&block.maximum[0], rows, 1.0, <real*> s.row[REFERENCE] + first)
        narrow_rows(&block.softmax_coefficient[0], rows, 1.0, <real*> s.row[LOG_TOTAL] + first)
        return
    narrow_rows(&block.grad_at_label[0], rows, chain, <real*> s.row[GRAD_AT_LABEL] + first)
    if s.clears != NULL:
        find_masked_derivatives(batch, s, block, rows)
    if s.by_classes and not (block.all_active and s.active_ones):
        s.active_ones = False
        active = <real*> s.row[ACTIVE] + first
        for i in range(rows):
            active[i] = block.active[i]
    if s.needs_whole_sums:
        set_whole_sums(s, first, rows, block, <real> 0)
    elif s.exact:
        narrow_rows(&block.sum_without_pivot[0], rows, 1.0, <real*> s.row[SUM_WITHOUT_PIVOT] + first)
        narrow_rows(s.pivot_exp + first, rows, 1.0, <real*> s.row[PIVOT] + first)
    if batch.hess.data != NULL:
        narrow_rows(&block.hess_product[0], rows, chain * chain, <real*> s.row[HESSIAN_PRODUCT] + first)
        narrow_rows(&block.hess_square[0], rows, chain * chain, <real*> s.row[HESSIAN_SQUARE] + first)
        narrow_rows(&block.hess_at_label[0], rows, chain * chain, <real*> s.row[HESSIAN_AT_LABEL] + first)
    if s.exact and s.largest_pivot and is_soft(batch):
        # The target mass is subtracted from the first of the two, which may be equal to it.
        for i in range(rows):
            numbers[i] = block.hard_mass[i] + block.soft_mass[i]
        narrow_rows(numbers, rows, 1.0, <real*> s.row[SOFTMAX_COEFFICIENT] + first)
        if batch.z_loss != 0.0:
            narrow_rows(&block.lse_coefficient[0], rows, 1.0, <real*> s.row[LSE_COEFFICIENT] + first)
        narrow_rows(&block.row_scale[0], rows, chain, <real*> s.row[TARGET_COEFFICIENT] + first)
        return
    if s.exact:  # the pass multiplies exponentials by the unit
        for i in range(rows):
            numbers[i] = block.softmax_coefficient[i] * block.row_scale[i] * chain
    elif any_extreme(block, rows, chain, s.unit, numbers, <real> 0):
        for i in range(rows):
            whole = block.softmax_coefficient[i] * block.row_scale[i] * chain
            if whole != 0.0 and first_factor(numbers[i], <real> 0) != 1.0:
                multiply_extreme_row(s, i, e + (first if s.by_classes else 0), whole)
                numbers[i] = 1.0
    narrow_rows(numbers, rows, 1.0, <real*> s.row[SOFTMAX_COEFFICIENT] + first)
    if is_soft(batch):
        narrow_rows(&block.factor[0], rows, -chain, <real*> s.row[TARGET_COEFFICIENT] + first)
