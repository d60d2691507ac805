# Stage 3: passes over a run in scratch, each of which applies numbers of its rows to vectors of elements.
# Needs packing.pxi.

# The passes: one type each, so that loops contain no test.
cdef struct Scaled:      # a e: the gradient of hard labels
    char unused


cdef struct Unified:     # the same, of exponentials times the unit of their row: together with a Hessian
    char unused


cdef struct Smoothed:    # a e + b t: with label smoothing
    char unused


cdef struct UnifiedSmoothed:  # the same, together with a Hessian
    char unused


cdef struct Exact:       # the same, computing the sum of all others for each class: with other soft targets
    char unused


cdef struct ExactWithZLoss:  # with z-loss, whose share must not be lost if the target mass is all of the rest
    char unused


cdef struct Curved:      # the Hessian
    char unused


cdef struct Targets:     # soft target mass of probabilities, smoothed and weighted
    char unused


cdef struct LogSoftmax:  # (u - m) - log of the row's sum
    char unused


ctypedef fused row_pass:
    Scaled
    Unified
    Smoothed
    UnifiedSmoothed
    Exact
    ExactWithZLoss
    Curved
    Targets
    LogSoftmax


cdef inline int coefficients_of(row_pass kind, int* which) noexcept nogil:
    # The numbers of rows that a pass needs, as indices of Scratch.row.
    if row_pass is Scaled:
        which[0] = SOFTMAX_COEFFICIENT
        return 1
    elif row_pass is Unified:
        which[0] = UNIT
        which[1] = SOFTMAX_COEFFICIENT
        return 2
    elif row_pass is Smoothed:
        which[0] = SOFTMAX_COEFFICIENT
        which[1] = TARGET_COEFFICIENT
        return 2
    elif row_pass is UnifiedSmoothed:
        which[0] = UNIT
        which[1] = SOFTMAX_COEFFICIENT
        which[2] = TARGET_COEFFICIENT
        return 3
    elif row_pass is Exact or row_pass is ExactWithZLoss:
        which[0] = UNIT
        which[1] = SUM_WITHOUT_PIVOT
        which[2] = PIVOT
        which[3] = SOFTMAX_COEFFICIENT
        which[4] = TARGET_COEFFICIENT
        which[5] = LSE_COEFFICIENT
        return 5 if row_pass is Exact else 6
    elif row_pass is Curved:
        which[0] = UNIT
        which[1] = SUM_WITHOUT_PIVOT
        which[2] = PIVOT
        which[3] = HESSIAN_PRODUCT
        which[4] = HESSIAN_SQUARE
        return 5
    elif row_pass is LogSoftmax:
        which[0] = REFERENCE
        which[1] = LOG_TOTAL
        return 2
    else:
        which[0] = SHARE
        return 1


cdef inline vec[real] passed(vec[real] x, vec[real] t, const vec[real]* c, row_pass kind) noexcept nogil:
    # Applies a pass to exponentials (LogSoftmax: logits, Targets: probabilities) and their soft target mass (Targets:
    # the class weights). At the pivot, the sum of all others is the sum without it.
    cdef vec[real] e
    if row_pass is Scaled:
        return x * c[0]
    elif row_pass is Unified:
        return (x * c[0]) * c[1]
    elif row_pass is Smoothed:
        return fma(x, c[0], t * c[1])
    elif row_pass is UnifiedSmoothed:
        return fma(x * c[0], c[1], t * c[2])
    elif row_pass is Exact:
        e = x * c[0]
        return c[4] * subtract_product((c[3] - t) * e, t, c[1] + (c[2] - e))
    elif row_pass is ExactWithZLoss:
        e = x * c[0]
        return c[4] * subtract_product(((c[3] - t) + c[5]) * e, t, c[1] + (c[2] - e))
    elif row_pass is Curved:
        e = x * c[0]
        return e * fma(c[3], c[1] + (c[2] - e), c[4] * e)
    elif row_pass is LogSoftmax:
        return (x - c[0]) - c[1]
    else:
        return t * (x + c[0])


cdef inline real nearly_all(real tag) noexcept nogil:
    # The largest ratio of an exponential to the sum of all others for which the difference keeps its digits.
    return <real> 4194304.0 if real is float else <real> 1125899906842624.0  # 2^22, 2^50


cdef inline mask[real] dominates(vec[real] x, const vec[real]* c, row_pass kind) noexcept nogil:
    # The lanes whose exponential, unless it is the pivot, is so large that the difference from the sum loses digits.
    cdef vec[real] e = x * c[0]
    if row_pass is Curved:
        return less((c[1] + (c[2] - e)) * splat(nearly_all(<real> 0)), e)
    else:
        return less(e, e)


cdef inline int label_of(row_pass kind) noexcept nogil:
    return HESSIAN_AT_LABEL if row_pass is Curved else GRAD_AT_LABEL


cdef inline bint has_labels(row_pass kind) noexcept nogil:
    return not (row_pass is Targets or row_pass is LogSoftmax)


cdef inline void narrow_rows(const double* numbers, Py_ssize_t rows, double factor, real* to) noexcept nogil:
    # Numbers of rows, times the factor, in the working precision. After the last row, a vector takes numbers
    # of another block, or uninitialised ones: they end in lanes that no pass stores.
    cdef wide_vec[real] wide
    cdef Py_ssize_t i = 0
    cdef int k
    while i < rows:
        for k in range(wide.parts):
            wide.part[k] = load(numbers + i + k * lanes(<double> 0)) * splat(factor)
        store(to + i, narrow_lanes(wide))
        i += lanes(<real> 0)


cdef inline void put_at_labels(const RowBlock* block, Py_ssize_t rows, const real* numbers,
                               char* to, Py_ssize_t class_stride, Py_ssize_t row_stride) noexcept nogil:
    # Writes a number per row at its label.
    cdef Py_ssize_t i
    for i in range(rows):
        if block.all_active or block.label[i] >= 0:
            write(<real*> (to + block.label[i] * class_stride), read(numbers + i))
        to += row_stride


cdef inline bint has_target(row_pass kind) noexcept nogil:
    return (row_pass is Smoothed or row_pass is UnifiedSmoothed or row_pass is Exact or row_pass is ExactWithZLoss
            or row_pass is Targets)


cdef inline vec[real] of_class(const real** row, Py_ssize_t i, vec[real] x, vec[real] t, vec[real] this_class,
                               const real* label, const real* at_label, const real* top_class, const real* at_top,
                               const real* active, const unsigned char* mask, row_pass kind) noexcept nogil:
    # A pass over one class of the rows from i on. The derivative at the label is found by comparison: writing it
    # afterwards would miss the cache. Pointers are NULL if there are no labels, tops or mask, or if all rows count.
    cdef int which[6]
    cdef int count = coefficients_of(kind, &which[0]), k
    cdef vec[real] c[6]
    cdef vec[real] zero = splat(<real> 0), y
    for k in range(count):
        c[k] = load(<const real*> row[k] + i)
    if row_pass is Targets:
        if mask != NULL:
            c[0] = zero_unless(load_mask(mask + i, <real> 0), c[0])
    y = passed(x, t, &c[0], kind)
    if row_pass is Curved:
        if top_class != NULL:
            y = select(equal(load(top_class + i), this_class), load(at_top + i), y)
    if has_labels(kind):
        if label != NULL:
            y = select(equal(load(label + i), this_class), load(at_label + i), y)
        if active != NULL:
            y = zero_unless(less(zero, load(active + i)), y)
    return y


cdef void over_classes(const Scratch* s, Py_ssize_t first, Py_ssize_t rows, const real* x, Py_ssize_t x_apart,
                       const real* t, Py_ssize_t t_apart, real* to, Py_ssize_t to_apart, bint labelled,
                       row_pass kind) noexcept nogil:
    # A pass over the rows from `first` on, packed class by class; t_apart is 0 if t has one number per class. In lanes
    # after the last row, which are not stored, t and the mask may be uninitialised.
    cdef int which[6]
    cdef int width = lanes(<real> 0), count = coefficients_of(kind, &which[0]), k
    cdef const real* row[6]
    cdef vec[real] zero = splat(<real> 0), one = splat(<real> 1), t_j = zero, this_class = splat(<real> s.first_class)
    cdef const real* label = <const real*> s.row[LABEL] if labelled else NULL
    cdef const real* at_label = <const real*> s.row[label_of(kind)]
    cdef const real* top_class = <const real*> s.row[TOP_CLASS] if s.has_tops else NULL
    cdef const real* at_top = <const real*> s.row[TOP]
    cdef const real* active = <const real*> s.row[ACTIVE] if not s.all_active else NULL
    cdef const unsigned char* mask = s.mask
    cdef Py_ssize_t j, i, stop = first + rows, classes_ahead = max_size(PLANE_AHEAD // rows, 1)
    for k in range(count):
        row[k] = <const real*> s.row[which[k]]
    for j in range(s.classes):
        if has_target(kind):
            if t_apart == 0:
                t_j = splat(t[j])
        i = first
        while i + width <= stop:
            if has_labels(kind):
                prefetch_to_write(<const char*> (to + classes_ahead * to_apart + i))
            if has_target(kind):
                if t_apart:
                    t_j = load(t + i)
            store(to + i, of_class(&row[0], i, load(x + i), t_j, this_class, label, at_label, top_class, at_top,
                                   active, mask, kind))
            i += width
        if i < stop:  # logits may be read in place, with no memory after the last one
            if has_target(kind):
                if t_apart:
                    t_j = load(t + i)
            store_first(to + i, stop - i, of_class(&row[0], i, load_first(x + i, stop - i, <real> 0), t_j, this_class,
                                                   label, at_label, top_class, at_top, active, mask, kind))
        this_class = this_class + one
        x += x_apart
        to += to_apart
        if has_target(kind):
            t += t_apart
        if row_pass is Targets:
            if mask != NULL:
                mask += s.class_apart


cdef void over_rows(Scratch* s, Py_ssize_t rows, const real* x, const real* t, real* to,
                    row_pass kind) noexcept nogil:
    # A pass over a run packed by rows, one after another.
    cdef int which[6]
    cdef int width = lanes(<real> 0), count = coefficients_of(kind, &which[0]), k
    cdef const real* row[6]
    cdef vec[real] c[6]
    cdef vec[real] spread[6]
    cdef vec[real] zero = splat(<real> 0), t_i = zero, x_i
    cdef mask[real] found, none = less(zero, zero)
    cdef const unsigned char* mask = s.mask
    cdef Py_ssize_t classes = s.classes, first = 0, i = 0, stop = rows * classes, j
    for k in range(count):
        row[k] = <const real*> s.row[which[k]]
    if s.row_of != NULL:
        # As many rows at once as a vector has lanes.
        while first < rows:
            for k in range(count):
                c[k] = load(row[k] + first)
            for j in range(classes):
                for k in range(count):
                    spread[k] = lanes_at(c[k], s.row_of + j * width)
                if has_target(kind):
                    t_i = load(t + i)
                if row_pass is Targets:
                    if mask != NULL:
                        spread[0] = zero_unless(load_mask(mask + i, <real> 0), spread[0])
                if first + width <= rows:
                    x_i = load(x + i)
                    store(to + i, passed(x_i, t_i, &spread[0], kind))
                elif i < stop:
                    x_i = load_first(x + i, min_size(stop - i, width), <real> 0)
                    store_first(to + i, min_size(stop - i, width), passed(x_i, t_i, &spread[0], kind))
                # Without a branch, which would be hard to predict. An entry past the last row, from an old x, belongs
                # to no row: mend_hessian_by_rows skips it.
                if row_pass is Curved:
                    s.dominated[s.dominated_count] = <int> i
                    s.dominated_count += any(dominates(x_i, &spread[0], kind))
                i += width
            first += width
        return
    for first in range(rows):
        for k in range(count):
            c[k] = splat(row[k][first])
        i = first * classes
        stop = i + classes
        found = none
        while i + width <= stop:
            if has_target(kind):
                t_i = load(t + i)
            if row_pass is Targets:
                c[0] = splat(row[0][first])
                if mask != NULL:
                    c[0] = zero_unless(load_mask(mask + i, <real> 0), c[0])
            x_i = load(x + i)
            if row_pass is Curved:
                found = found | dominates(x_i, &c[0], kind)
            store(to + i, passed(x_i, t_i, &c[0], kind))
            i += width
        if i < stop:
            if has_target(kind):  # which may be read in place, with no memory after them
                t_i = load_first(t + i, stop - i, <real> 0)
            if row_pass is Targets:
                c[0] = splat(row[0][first])
                if mask != NULL:
                    c[0] = zero_unless(load_mask(mask + i, <real> 0), c[0])
            x_i = load_first(x + i, stop - i, <real> 0)
            if row_pass is Curved:
                found = found | dominates(x_i, &c[0], kind)
            store_first(to + i, stop - i, passed(x_i, t_i, &c[0], kind))
        if row_pass is Curved:
            s.dominated[s.dominated_count] = <int> (first * classes)
            s.dominated_count += any(found)


cdef void over_run(const Batch* batch, Scratch* s, Py_ssize_t first, Py_ssize_t rows,
                   const RowBlock* block, const real* x, Py_ssize_t x_apart, const real* t, Py_ssize_t t_apart,
                   real* to, Py_ssize_t to_apart, row_pass kind) noexcept nogil:
    # A pass over the rows from `first` on of a run; if it is packed by rows, over all of it.
    cdef bint labelled = has_labels(kind) and batch.labels.data != NULL
    cdef Py_ssize_t i
    if s.by_classes:
        over_classes(s, first, rows, x, x_apart, t, t_apart, to, to_apart, labelled, kind)
        return
    s.dominated_count = 0
    if not (s.is_long and has_labels(kind) and not s.all_active):  # a long row that does not count has no exponentials
        over_rows(s, rows, x, t, to, kind)
        if labelled:
            put_at_labels(block, rows, <const real*> s.row[label_of(kind)], <char*> to, sizeof(real),
                          s.classes * sizeof(real))
    if has_labels(kind) and not s.all_active:
        for i in range(rows):
            if not block.active[i]:
                memset(to + i * s.classes, 0, s.classes * sizeof(real))
