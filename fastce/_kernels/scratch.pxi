# The layout of a batch's scratch, and everything that is the same for all its runs.
# Needs statistics.pxi, pivots.pxi.

cdef inline bint is_plain(const Batch* batch) noexcept nogil:
    # Whether logits enter the softmax as they are.
    return (batch.logits.storage <= FLOAT64 and batch.logit_scale == 1.0 and batch.softcap == 0.0
            and batch.mask.data == NULL)


cdef inline bint lies_as_scratch(const Scratch* s, const Matrix* matrix, real tag) noexcept nogil:
    # Whether a matrix can be read or written in place.
    cdef Py_ssize_t size = sizeof(real)
    if matrix.storage != native_storage(tag):
        return False
    if s.by_classes:
        return matrix.row_stride == size and s.classes > 1 and not s.interleaves
    return matrix.class_stride == size and matrix.row_stride == s.classes * size


cdef inline void* part(char** memory, Py_ssize_t size) noexcept nogil:
    # Whole cache lines, with room for one more vector.
    cdef void* at = memory[0]
    memory[0] += (size + 191) // 64 * 64
    return at


cdef inline bint has_own_targets(const Batch* batch) noexcept nogil:
    # Whether each row has soft target mass of its own.
    return batch.probabilities.data != NULL or (is_soft(batch) and batch.mask.data != NULL)


cdef inline bint changes_derivatives(const Batch* batch) noexcept nogil:
    # Whether derivatives are changed after the pass that computes them, by the chain rule of the cap or by a mask.
    # A loss has gradient 0 at a masked class. log_softmax is -inf there, and softmax is NaN if all are masked.
    return batch.softcap != 0.0 or (batch.kind != LOG_SUM_EXP and batch.kind != LOG_SOFTMAX and batch.mask.data != NULL)


cdef inline bint takes_probabilities_as_they_lie(const Batch* batch, const Scratch* s, real tag) noexcept nogil:
    return (batch.probabilities.data != NULL and batch.mask.data == NULL and batch.label_smoothing == 0.0
            and batch.class_weight == NULL and batch.probabilities.class_stride != 0
            and lies_as_scratch(s, &batch.probabilities, tag))


cdef inline bint needs_no_scratch(const Batch* batch, const Scratch* s, real tag) noexcept nogil:
    # Whether a run uses only the arrays of the call for its elements, with exponentials in the gradient.
    return (is_plain(batch) and batch.kind != LOG_SOFTMAX and batch.grad.data != NULL
            and batch.grad.data != batch.logits.data and lies_as_scratch(s, &batch.logits, tag)
            and lies_as_scratch(s, &batch.grad, tag)
            and (batch.hess.data == NULL or (s.direct_hess and batch.hess.data != batch.logits.data))
            and (not has_own_targets(batch) or takes_probabilities_as_they_lie(batch, s, tag)))


cdef inline bint has_hard_mass(const Batch* batch) noexcept nogil:
    # Whether every label has target mass of its own, and enough to hide what cancels in the loss from smoothing if
    # logits are relative to that of the label.
    cdef double weight = 1.0 if batch.class_weight == NULL or batch.classes == 0 else batch.class_weight[0]
    cdef vec[double] least = splat(weight), most = least, x
    cdef Py_ssize_t j = 0
    while batch.class_weight != NULL and j < batch.classes:
        x = load_rest(batch.class_weight + j, batch.classes - j, weight)
        least = min(least, x)
        most = max(most, x)
        j += lanes(0.0)
    return -reduce_max(-least) * (1.0 - batch.label_smoothing) > 0.25 * reduce_max(most) * batch.label_smoothing


cdef inline Py_ssize_t staged_size(const Scratch* s, const Matrix* matrix, real tag) noexcept nogil:
    # Bytes per element of a matrix that may enter or leave scratch through the stage (see fill_scratch and
    # empty_scratch); 0 if it cannot.
    cdef Py_ssize_t size = storage_size(matrix.storage), own = sizeof(real)
    if matrix.data == NULL or (s.by_classes and matrix.row_stride == size and s.classes > 1):
        return 0
    if not s.by_classes and matrix.class_stride == size and s.classes > SPREAD_CLASSES:
        return 0
    if (s.classes > most_interleaved and size == own and (matrix.class_stride == size or matrix.row_stride == size)
            and (s.interleaves or not s.by_classes)):
        return 0
    return max_size(size, own)


cdef char* divide_scratch(const Batch* batch, Scratch* s, char* memory, real tag) noexcept nogil:
    # Assigns memory to each part of scratch, and returns the end of the last one.
    cdef Py_ssize_t size = sizeof(real), classes = s.classes, numbers = s.rows + 32, elements, i
    cdef bint soft = is_soft(batch), wants_hess = batch.hess.data != NULL
    cdef Py_ssize_t largest = max_size(
        staged_size(s, &batch.logits, tag),
        max_size(staged_size(s, &batch.grad, tag), staged_size(s, &batch.hess, tag))), part_elements
    elements = classes * s.class_apart if s.by_classes else (s.rows + 15) // 16 * 16 * classes
    if s.is_long:
        elements = classes
    part_elements = min_size(elements, s.part_classes * s.class_apart) if s.by_classes else elements
    s.block = <RowBlock*> part(&memory, sizeof(RowBlock))
    s.unit = <double*> part(&memory, BLOCK_ROWS * sizeof(double))
    s.factors = <double*> part(&memory, BLOCK_ROWS * sizeof(double))
    if not (s.is_long and s.in_gradient):
        s.e = part(&memory, (elements if s.keeps_exponentials else CHUNK) * size)
    s.u = part(&memory, 0 if is_plain(batch) and lies_as_scratch(s, &batch.logits, tag)
               else elements * size)
    # At least a row, or one class of all rows, which may be what is left for the last part.
    s.stage = part(&memory, max_size(elements * staged_size(s, &batch.probabilities, tag), part_elements * largest)
                   + max_size(classes, s.class_apart) * 8)
    for i in range(ROW_NUMBERS):
        s.row[i] = part(&memory, numbers * size)
    s.sum_without_pivot = <double*> part(&memory, numbers * sizeof(double))
    s.sum_low = <double*> part(&memory, numbers * sizeof(double))
    s.pivot_exp = <double*> part(&memory, numbers * sizeof(double))
    s.whole_sum = <double*> part(&memory, numbers * sizeof(double))
    s.whole_low = <double*> part(&memory, numbers * sizeof(double))
    s.pivot = <long long*> part(&memory, numbers * sizeof(long long))
    s.labels = <long long*> part(&memory, numbers * sizeof(long long))
    if wants_hess and not s.direct_hess:
        s.hess = part(&memory, part_elements * size)
    if batch.statistics != NULL:
        s.statistics = <double*> part(&memory, STATISTICS * BLOCK_ROWS * sizeof(double))
    if wants_hess and not s.by_classes:
        s.dominated = <int*> part(&memory, (1 if s.is_long else elements) * sizeof(int))
    if batch.softcap != 0.0:
        s.slope = part(&memory, elements * size)
    if batch.mask.data != NULL:
        s.mask = <unsigned char*> part(&memory, elements)
        if batch.softcap == 0.0 and batch.probabilities.data == NULL and not s.by_classes:
            s.clears = <unsigned char*> part(&memory, numbers)
    if not s.by_classes and classes <= SPREAD_CLASSES and lanes(<float> 0) > 4:  # no instruction looks up fewer
        s.row_of = <int*> part(&memory, SPREAD_CLASSES * lanes(tag) * sizeof(int))
    if soft and (has_own_targets(batch) or not (s.by_classes or s.rows == 1)):
        s.t = part(&memory, elements * size)
    if has_own_targets(batch):
        s.weight = part(&memory, (classes if s.by_classes else elements) * size)
    return memory


cdef inline bint is_out_of_memory(Py_ssize_t classes) noexcept nogil:
    # Whether sizes of scratch for a row of so many classes, such as those of a broadcast number, might overflow.
    return <long long> classes >> 47 > 0


cdef int begin_scratch(const Batch* batch, Scratch* s, int plan, Py_ssize_t rows, real tag) noexcept nogil:
    cdef Py_ssize_t size = sizeof(real), classes = batch.classes, least, i, j
    cdef bint soft = is_soft(batch), wants_hess = batch.hess.data != NULL, own_targets = has_own_targets(batch)
    cdef bint in_place
    memset(s, 0, sizeof(s[0]))
    if is_out_of_memory(classes):
        return NO_MEMORY
    s.classes = classes
    s.holes = s.expects_holes = batch.mask.data != NULL
    s.by_classes = plan != BLOCK_BY_ROWS
    s.interleaves = plan == BLOCK_INTERLEAVED
    s.largest_pivot = (own_targets or batch.kind == LOG_SOFTMAX or batch.maximum != NULL
                       or batch.log_sum_exp != NULL
                       or (batch.kind == LOG_SUM_EXP and batch.grad.data == NULL)
                       or (soft and not has_hard_mass(batch)))
    s.needs_whole_sums = wants_hess and not s.largest_pivot
    s.direct_hess = wants_hess and not changes_derivatives(batch) and lies_as_scratch(s, &batch.hess, tag)
    s.exact = batch.grad.data != NULL and (wants_hess or (soft and s.largest_pivot))
    s.has_large_weights = s.exact and batch.kind == CROSS_ENTROPY and (
        own_targets or batch.class_weight != NULL or batch.sample_weight.data != NULL
        or batch.grad_output.data != NULL or fabs(batch.scale) > 1.0 or fabs(batch.logit_scale) > 1.0)
    if plan == BLOCK_INTERLEAVED:
        s.rows = INTERLEAVED_ROWS
    elif plan == BLOCK_BY_PLANES:
        s.rows = PLANE_ROW_BYTES // size
        # At least one cache line per class, and more if no memory other than that of the arrays is used.
        in_place = needs_no_scratch(batch, s, tag)
        least = LEAST_PLANE_ROWS if in_place else LEAST_SCRATCH_ROWS
        while s.rows * storage_size(batch.logits.storage) > cache_line and (
                s.rows // 2 >= rows or (s.rows > least and s.rows * classes * size > PLANE_BYTES)
                or (not in_place and s.rows * classes * size > LARGEST_PLANE_BYTES)):
            s.rows //= 2
    else:
        s.rows = BLOCK_ROWS
        while s.rows > LEAST_ROWS and s.rows * classes * size > BLOCK_BYTES:
            s.rows //= 2
        while s.rows > 1 and s.rows * classes * size > LARGEST_BLOCK_BYTES:
            s.rows //= 2
        if batch.statistics != NULL:
            s.rows = min_size(s.rows, max_size(STATISTICS_BYTES // max_size(classes * size, 1), 1))
    s.streams = (batch.streams and lies_as_scratch(s, &batch.grad, tag)
                 and (min_size(batch.grad.inner, s.rows) * size == PLANE_ROW_BYTES
                      and s.rows * classes * size <= PLANE_BYTES if s.by_classes
                      else classes * size <= STREAMED_ROW_BYTES))
    s.in_gradient = (not s.streams and batch.grad.data != NULL and batch.grad.data != batch.logits.data
                     and batch.softcap == 0.0 and batch.mask.data == NULL and batch.kind != LOG_SOFTMAX
                     and lies_as_scratch(s, &batch.grad, tag)
                     and (s.rows == 1 if not s.by_classes else s.rows * classes * size > PLANE_BYTES))
    s.is_long = not s.by_classes and classes * size > LARGEST_BLOCK_BYTES
    s.keeps_exponentials = not s.is_long or batch.grad.data != NULL or batch.kind == FOCAL
    # Long planes must not be a power of two apart: the classes of a row would compete for the same cache sets.
    s.class_apart = 1 if not s.by_classes else s.rows if s.rows * size <= 4 * cache_line else s.rows + 16
    s.row_apart = 1 if s.by_classes else classes
    s.part_classes = classes
    if plan == BLOCK_BY_PLANES and PART_ELEMENTS < s.rows * classes:
        s.part_classes = min_size(
            classes, max_size(PART_ELEMENTS // (s.rows * CLASSES_TOGETHER), 1) * CLASSES_TOGETHER)
    s.fills_parts = (s.part_classes < classes and batch.mask.data == NULL
                     and not (is_plain(batch) and lies_as_scratch(s, &batch.logits, tag)))
    s.drops_logits = (s.fills_parts and not needs_logits(batch, s) and batch.kind != FOCAL
                      and batch.statistics == NULL and not changes_derivatives(batch))
    s.memory = <char*> malloc(<size_t> divide_scratch(batch, s, NULL, tag) + 64)
    if s.memory == NULL:
        return NO_MEMORY
    divide_scratch(batch, s, s.memory + (64 - <size_t> s.memory % 64), tag)
    for i in range(ROW_NUMBERS):
        memset(s.row[i], 0, (s.rows + 32) * size)
    for i in range(BLOCK_ROWS):
        s.unit[i] = 1.0
    s.active_ones = True
    for i in range(s.rows + 32):
        (<real*> s.row[ACTIVE])[i] = 1
    for i in range(lanes(tag) if s.row_of != NULL else 0):
        for j in range(classes):
            s.row_of[i * classes + j] = <int> i
    if own_targets:
        s.t_apart = s.class_apart
        for i in range(1 if s.by_classes else s.rows):
            for j in range(classes):
                (<real*> s.weight)[i * classes + j] = <real> (batch.class_weight[j] if batch.class_weight else 1.0)
        return OK
    if soft:
        s.shared_mass = exact_sum(<const real*> batch.soft_weight, classes)
    if soft and (s.by_classes or s.rows == 1):
        s.t = <void*> batch.soft_weight
    for i in range(s.rows if soft and s.t != batch.soft_weight else 0):
        memcpy(<real*> s.t + i * classes, batch.soft_weight, classes * size)
    return OK
