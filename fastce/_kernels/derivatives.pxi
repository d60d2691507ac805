# Stage 3 of a run: exponentials become derivatives, which are written to their arrays.
# Needs run_passes.pxi, exponentials.pxi, scratch.pxi.

cdef void clear_masked(const Scratch* s, Py_ssize_t i, real* numbers) noexcept nogil:
    # Clears masked derivatives of row i, packed by rows.
    cdef Py_ssize_t j = i * s.classes, stop = j + s.classes, width = lanes(<real> 0)
    cdef vec[real] x
    while j < stop:
        x = load_rest(<const real*> numbers + j, stop - j, <real> 0)
        store_first(numbers + j, min_size(stop - j, width), zero_unless(load_mask(s.mask + j, <real> 0), x))
        j += width


cdef void clear_and_chain(const Batch* batch, const Scratch* s, Py_ssize_t rows, const RowBlock* block, real* grad,
                          Py_ssize_t grad_apart, real* hess) noexcept nogil:
    # Applies the chain rule of the cap, and clears derivatives of masked classes and of rows that do not count.
    cdef Py_ssize_t segments = s.classes if s.by_classes else 1, count = rows if s.by_classes else rows * s.classes
    cdef Py_ssize_t i, j, at
    cdef vec[real] zero = splat(<real> 0)
    cdef const real* active = <const real*> s.row[ACTIVE]
    cdef mask[real] kept
    cdef real* to
    for i in range(rows if s.clears != NULL else 0):
        if s.clears[i]:
            clear_masked(s, i, grad)
            if hess:
                clear_masked(s, i, hess)
    for i in range(segments if s.clears == NULL else 0):
        at = i * s.class_apart
        to = grad + i * grad_apart
        if batch.softcap != 0.0:
            chain_rule(batch, <const real*> s.u + at, <const real*> s.slope + at, count, to,
                       hess + at if hess else NULL)
        j = 0
        while j < count and (s.mask != NULL or (s.by_classes and not s.all_active)):
            kept = equal(zero, zero)
            if s.mask != NULL:
                kept = load_mask(s.mask + at + j, <real> 0)
            if s.by_classes:
                kept = kept & less(zero, load(active + j))
            store_rest(to + j, count - j, zero_unless(kept, load_rest(<const real*> to + j, count - j, <real> 0)))
            if hess:  # in scratch, where each class has room for a whole vector; what follows the last row is not used
                store(hess + at + j, zero_unless(kept, load(<const real*> hess + at + j)))
            j += lanes(<real> 0)
    for i in range(0 if s.by_classes or s.all_active else rows):
        if not block.active[i]:
            memset(grad + i * s.classes, 0, s.classes * sizeof(real))
            if hess:
                memset(hess + i * s.classes, 0, s.classes * sizeof(real))


cdef inline real hessian_of(const Scratch* s, Py_ssize_t i, real e, double others) noexcept nogil:
    # The Hessian at a class of row i, from its exponential and the sum of all others, both multiplied by the unit.
    return <real> (e * ((<const real*> s.row[HESSIAN_PRODUCT])[i] * others
                        + (<const real*> s.row[HESSIAN_SQUARE])[i] * e))


cdef inline bint dominates_row(const Scratch* s, Py_ssize_t i, real e) noexcept nogil:
    # The same test as `dominates`: the bits of a row must not depend on its neighbours.
    cdef real others = (<const real*> s.row[SUM_WITHOUT_PIVOT])[i] + ((<const real*> s.row[PIVOT])[i] - e)
    return others * nearly_all(e) < e


cdef void mend_hessian_by_rows(const Scratch* s, Py_ssize_t rows, const RowBlock* block, real* e,
                               real* hess) noexcept nogil:
    # Corrects the Hessian at a class that holds most of its row and is not the pivot. There is at most one per row.
    cdef Py_ssize_t k, i, last, top, whole = s.classes - s.classes % lanes(<real> 0), j
    cdef real largest, unit, at_pivot
    cdef vec[real] m, x
    cdef wide_sum[real] sum, ties, nothing
    cdef double others
    cdef real* row
    for k in range(s.dominated_count):
        i = s.dominated[k] // s.classes
        last = min_size((s.dominated[k] + lanes(<real> 0) - 1) // s.classes, rows - 1)
        while i <= last:
            row = e + i * s.classes
            at_pivot = row[s.pivots[i]]
            if at_pivot != 0:
                row[s.pivots[i]] = 0
            largest = extremes_of_row(<const real*> row, s.classes, <real*> NULL)
            m = splat(largest)
            sum = ties = nothing
            j = 0
            while j < s.classes:
                x = load(row + j) if j < whole else load_first(<const real*> row + j, s.classes - j, <real> 0)
                sum.add(zero_where(equal(x, m), x))
                ties.add(zero_unless(equal(x, m), x))
                j += lanes(<real> 0)
            unit = (<const real*> s.row[UNIT])[i]
            others = (sum.total() + (ties.total() - largest)) * unit + s.pivot_exp[i]
            if dominates_row(s, i, largest * unit) and block.active[i]:
                top = position_of(<const real*> row, s.classes, largest)
                hess[i * s.classes + top] = hessian_of(s, i, largest * unit, others)
            if at_pivot != 0:
                row[s.pivots[i]] = at_pivot
            i += 1


cdef void mend_hessian_by_classes(Scratch* s, Py_ssize_t rows, const real* e) noexcept nogil:
    # Computes the same for a run packed class by class, one vector of rows at a time. The pass Curved writes it.
    cdef int width = lanes(<real> 0), k
    cdef vec[real] one = splat(<real> 1), nearly = splat(nearly_all(<real> 0)), this_class, pivot, top, where_top, y
    cdef vec[real] unit, others_of_top
    cdef mask[real] is_top, is_pivot
    cdef wide_sum[real] sum, nothing
    cdef real* tops = <real*> s.row[TOP]
    cdef real classes[16]
    cdef double others[16]
    cdef Py_ssize_t i = 0, j
    s.has_tops = False
    for i in range((rows + 15) // 16 * 16):
        (<real*> s.row[TOP_CLASS])[i] = -1
    i = 0
    while i < rows:
        top = load_rest(<const real*> tops + i, rows - i, <real> 0)  # other lanes are uninitialised
        unit = load(<const real*> s.row[UNIT] + i)
        others_of_top = (load(<const real*> s.row[SUM_WITHOUT_PIVOT] + i)
                         + (load(<const real*> s.row[PIVOT] + i) - top * unit))
        if any(less(others_of_top * nearly, top * unit)):
            pivot = load(<const real*> s.pivot_class + i)
            this_class = splat(<real> 0)
            where_top = splat(<real> -1)
            sum = nothing
            for j in range(s.classes):
                y = load(e + j * s.exps_apart + i)  # uninitialised after the last row, where nothing is mended
                is_pivot = equal(pivot, this_class)
                is_top = equal(y, top)
                where_top = select(is_top, select(is_pivot, where_top, this_class), where_top)
                sum.add(zero_where(is_pivot | is_top, y))
                this_class = this_class + one
            store(&classes[0], where_top)
            store_wide(&others[0], sum.lanes())
            for k in range(min_size(width, rows - i)):
                others[k] = others[k] * (<const real*> s.row[UNIT])[i + k] + s.pivot_exp[i + k]
                tops[i + k] *= (<const real*> s.row[UNIT])[i + k]
                if dominates_row(s, i + k, tops[i + k]) and (<const real*> s.row[ACTIVE])[i + k] > 0:
                    (<real*> s.row[TOP_CLASS])[i + k] = classes[k]
                    tops[i + k] = hessian_of(s, i + k, tops[i + k], others[k])
                    s.has_tops = True
        i += width


cdef void write_run(const Batch* batch, Scratch* s, Py_ssize_t row, Py_ssize_t rows, const RowBlock* block,
                    real* e) noexcept nogil:
    # Stage 3, of a whole run or of some of its classes.
    cdef bint changes = changes_derivatives(batch)
    cdef bint streams = s.streams
    cdef Py_ssize_t j
    cdef bint direct = lies_as_scratch(s, &batch.grad, <real> 0) and not streams
    cdef real* grad = <real*> row_address(&batch.grad, row) if direct else e  # e may point there already
    cdef real* hess = NULL
    cdef const real* t = <const real*> s.targets
    cdef Py_ssize_t hess_apart = s.class_apart
    cdef Py_ssize_t grad_apart = batch.grad.class_stride // <Py_ssize_t> sizeof(real) if direct else s.exps_apart
    cdef Scaled scaled
    cdef Unified unified
    cdef Smoothed smoothed
    cdef UnifiedSmoothed unified_smoothed
    cdef Exact exact
    cdef ExactWithZLoss exact_with_z_loss
    cdef Curved curved
    cdef LogSoftmax log_softmax
    if batch.hess.data != NULL:
        hess = <real*> s.hess
        if s.direct_hess:
            hess = <real*> row_address(&batch.hess, row)
            hess_apart = batch.hess.class_stride // <Py_ssize_t> sizeof(real)
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, hess, hess_apart, curved)
        if s.dominated_count and not s.largest_pivot:
            mend_hessian_by_rows(s, rows, block, e, hess)
    if batch.kind == LOG_SOFTMAX:
        over_run(batch, s, 0, rows, block, <const real*> s.logits, s.logits_class_apart, t, s.t_apart, grad,
                 grad_apart, log_softmax)
    elif is_soft(batch) and s.exact and s.largest_pivot and batch.z_loss != 0.0:
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart,
                 exact_with_z_loss)
    elif is_soft(batch) and s.exact and s.largest_pivot:
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart, exact)
    elif is_soft(batch) and s.exact:
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart,
                 unified_smoothed)
    elif is_soft(batch):
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart, smoothed)
    elif s.exact:
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart, unified)
    else:
        over_run(batch, s, 0, rows, block, <const real*> e, s.exps_apart, t, s.t_apart, grad, grad_apart, scaled)
    if changes:
        clear_and_chain(batch, s, rows, block, grad, grad_apart, hess)
    for j in range(s.classes if streams and s.by_classes else 0):
        stream(<real*> (row_address(&batch.grad, row) + j * batch.grad.class_stride),
               <const real*> grad + j * grad_apart, 0, rows, False)
    if streams and not s.by_classes:
        stream(<real*> row_address(&batch.grad, row), <const real*> grad, 0, rows * s.classes, False)
    elif not direct and not streams:
        empty_scratch(s, <const real*> grad, &batch.grad, row, rows)
    if hess and not s.direct_hess:
        empty_scratch(s, <const real*> hess, &batch.hess, row, rows)
