# Few classes and hard labels, float32, in rows: vectors run over the numbers as they lie.
#
# Nothing is transposed, for exponentials do not ask which row they belong to: those of a row are relative to 0
# if its logits are moderate, which all in a block are but for the odd one, else to the row's maximum. Each row
# has a pivot, the target, or where it is not moderate a maximum, and is summed up without it, so that nothing
# cancels:
#     others = sum of exp(u_j) / exp(u_pivot) over all j but the pivot
# is what _formulas.pxi asks for with the pivot in the maximum's place. What each row is multiplied by is spread
# over its numbers by one look-up a vector, whose index repeats with every vector of rows.
# TODO figures


cdef enum:
    AHEAD = 2048
    FLAT_BLOCK = 2048


cdef struct FlatWork:
    float* u          # a block of logits, where they cannot be read in place
    float* e          # its exponentials
    int* row_of       # which of the rows of a vector the lanes of as many vectors as there are classes belong to
    double inverse[BLOCK_ROWS]  # of the pivot's exponential
    long long pivot[BLOCK_ROWS]
    double parts[8 * BLOCK_ROWS]  # of the sum of a row, before they are added up
    bint simple       # whether the block's maxima are 0, and its targets' exponentials 1


cdef inline bint goes_flat(const Batch* batch) noexcept nogil:
    return (batch.labels.data != NULL and batch.logits.storage != FLOAT64
            and batch.classes * sizeof(float) <= TILE_BYTES
            and (batch.kind == CROSS_ENTROPY or batch.kind == FOCAL)
            and not is_soft(batch) and batch.mask.data == NULL and batch.z_loss == 0.0
            and batch.logit_scale == 1.0 and batch.softcap == 0.0
            and batch.hess.data == NULL and batch.log_sum_exp == NULL and batch.argmax == NULL
            and batch.maximum == NULL and batch.others == NULL and batch.target_logit == NULL
            and not is_plane(&batch.logits) and not is_plane(&batch.grad))


cdef inline bint lies_flat(const Batch* batch, const Matrix* matrix, Py_ssize_t rows) noexcept nogil:
    # Whether a block of rows is made of whole vectors where it lies.
    return (rows % 16 == 0 and matrix.storage == FLOAT32
            and matrix.row_stride == batch.classes * <Py_ssize_t> sizeof(float))


cdef const float* flat_logits(const Batch* batch, Py_ssize_t row, Py_ssize_t rows,
                              FlatWork* work) noexcept nogil:
    cdef const char* source = row_address(&batch.logits, row)
    cdef Py_ssize_t i
    if lies_flat(batch, &batch.logits, rows):
        return <const float*> source
    for i in range(rows):
        widen(source + i * batch.logits.row_stride, batch.logits.storage, work.u + i * batch.classes,
              batch.classes)
    for i in range(rows * batch.classes, rows * batch.classes + 2 * lanes(<float> 0)):
        work.u[i] = 0
    return work.u


cdef inline wide_vec[float] inverse_of(wide_vec[float] x) noexcept nogil:
    cdef int k
    for k in range(x.parts):
        x.part[k] = splat(1.0) / x.part[k]
    return x


cdef bint flat_exponentials(const float* u, float* e, Py_ssize_t count, const char* ahead,
                            const char* to) noexcept nogil:
    # exp(u), whole vectors; False if some logits are not moderate. Fetches what a later block reads, and what this
    # one writes.
    cdef vec[float] highest = splat(<float> -INFINITY), lowest = splat(<float> INFINITY), x, y
    cdef int width = lanes(<float> 0)
    cdef Py_ssize_t i = 0
    while i < count:
        fetch(ahead + i * sizeof(float))
        fetch_to_write(to + i * sizeof(float))
        x = load(u + i)
        y = load(u + i + width)
        highest = max(y, max(x, highest))
        lowest = min(y, min(x, lowest))
        store(e + i, normal_exp(x))
        store(e + i + width, normal_exp(y))
        i += 2 * width
    return are_moderate(-reduce_max(-lowest), reduce_max(highest))


cdef void mixed_exponentials(const float* u, Py_ssize_t rows, Py_ssize_t classes, RowBlock* block,
                             FlatWork* work) noexcept nogil:
    # Of rows some of which are not moderate; the same for those that are. Pivots that are no targets are found.
    cdef float reference[BLOCK_ROWS]
    cdef float unit[BLOCK_ROWS]
    cdef float highest, lowest, number
    cdef const float* row = u
    cdef Py_ssize_t i, j, first, vectors = 0
    cdef int width = lanes(<float> 0)
    cdef vec[float] x
    for i in range(BLOCK_ROWS):
        reference[i] = 0
        unit[i] = <float> lowering(<float> 0)
    for i in range(rows):
        highest = -INFINITY
        lowest = INFINITY
        for j in range(classes):
            number = read(row + j)
            highest = number if number > highest else highest
            lowest = number if number < lowest else lowest
        if block.active[i] and not are_moderate(lowest, highest):
            unit[i] = 1
            j = 0
            while j < classes - 1 and read(row + j) != highest:
                j += 1
            work.pivot[i] = j
            if highest > -INFINITY:
                reference[i] = highest
        row += classes
    first = 0
    while first < rows:
        for j in range(classes):
            x = load(u + first * classes + j * width)
            x = x - lanes_at(load(&reference[first]), work.row_of + j * width)
            store(work.e + first * classes + j * width,
                  raised_exp(x) * lanes_at(load(&unit[first]), work.row_of + j * width))
        first += width


cdef inline void add_vectors(const float* e, Py_ssize_t rows, Py_ssize_t classes, double* parts) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(rows):
        store(parts, load(<const double*> parts) + folded(load(e)))
        e += classes
        parts += lanes(<double> 0)


cdef inline void add_long_rows(const float* e, Py_ssize_t rows, Py_ssize_t classes, double* parts) noexcept nogil:
    cdef int width = lanes(<float> 0)
    cdef Py_ssize_t row, j, whole = classes - classes % width
    cdef vec[double] sum
    for row in range(rows):
        sum = folded(load_first(e + whole, classes - whole, <float> 0))
        j = 0
        while j + 4 * width <= whole:
            sum = sum + folded((load(e + j) + load(e + j + width))
                               + (load(e + j + 2 * width) + load(e + j + 3 * width)))
            j += 4 * width
        while j < whole:
            sum = sum + folded(load(e + j))
            j += width
        store(parts, sum)
        e += classes
        parts += lanes(<double> 0)


cdef void flat_sums(const float* e, Py_ssize_t rows, Py_ssize_t classes, double* parts, const double* inverse,
                    double* others) noexcept nogil:
    # Of whole vectors of rows: one vector or four of each row at a time, so that the loops are long. Up to four
    # are added up in float, for precision no more.
    cdef int width = lanes(<float> 0), narrow_width = lanes(<double> 0), k
    cdef vec[float] sum
    cdef vec[double] sums[8]
    cdef Py_ssize_t row, j = width, whole = classes - classes % width
    if whole >= 4 * width:
        add_long_rows(e, rows, classes, parts)
        j = whole
    elif whole == 0:
        for row in range(rows):
            store(parts + row * narrow_width, folded(load_first(e + row * classes, classes, <float> 0)))
    else:
        for row in range(rows):
            sum = load_first(e + row * classes + whole, classes - whole, <float> 0)
            store(parts + row * narrow_width, folded(load(e + row * classes) + sum))
    while j < whole:
        add_vectors(e + j, rows, classes, parts)
        j += width
    row = 0
    while row < rows:
        for k in range(narrow_width):
            sums[k] = load(<const double*> parts + (row + k) * narrow_width)
        store(others + row, sums_of_lanes(&sums[0]) * load(inverse + row))
        row += narrow_width


cdef void flat_gradient(const float* e, const float* factors, const int* row_of, Py_ssize_t rows,
                        Py_ssize_t classes, float* to) noexcept nogil:
    cdef int width = lanes(<float> 0)
    cdef vec[float] factor
    cdef Py_ssize_t row = 0, j
    while row < rows:
        factor = load(factors + row)
        for j in range(classes):
            store(to + j * width, load(e + j * width) * lanes_at(factor, row_of + j * width))
        e += classes * width
        to += classes * width
        row += width


cdef inline bint flat_factors(const RowBlock* block, Py_ssize_t rows, const double* inverse,
                              float* factors) noexcept nogil:
    # What makes exponentials the gradient; True if one of them is no normal number.
    cdef wide_vec[float] factor
    cdef vec[double] smallest = splat(smallest_factor(<float> 0)), zero = splat(0.0), size
    cdef vec[double] largest = splat(0.5 / smallest_factor(<float> 0))
    cdef bint extreme = False
    cdef Py_ssize_t i = 0
    cdef int k
    while i < rows:
        for k in range(factor.parts):
            factor.part[k] = load(&block.scale[i]) * load(&block.pull[i]) * load(inverse + i)
            size = abs(factor.part[k])
            extreme |= any((less(size, smallest) & less(zero, size)) | less(largest, size))
            i += lanes(<double> 0)
        store(factors + i - lanes(<float> 0), narrow_lanes(factor))
    return extreme


cdef inline void apply_extreme_factor(double factor, float* e, Py_ssize_t classes, float* rest) noexcept nogil:
    cdef double first = first_factor(factor, <float> 0)
    if first != 1.0:
        multiply(<const float*> e, <float> first, e, classes)
    rest[0] = <float> (factor / first)


cdef void flat_derivatives(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, const RowBlock* block,
                           FlatWork* work) noexcept nogil:
    cdef char* grad = row_address(&batch.grad, row)
    cdef float* to = work.e
    cdef float factors[BLOCK_ROWS]
    cdef Py_ssize_t i, classes = batch.classes
    cdef bint direct = lies_flat(batch, &batch.grad, rows)
    if flat_factors(block, rows, &work.inverse[0], &factors[0]):
        for i in range(rows):
            apply_extreme_factor(block.scale[i] * block.pull[i] * work.inverse[i], work.e + i * classes, classes,
                                 &factors[i])
    if direct:
        to = <float*> grad
    flat_gradient(work.e, &factors[0], work.row_of, rows, classes, to)
    for i in range(rows):
        if block.label[i] >= 0:
            write(to + i * classes + block.label[i], <float> block.at_target[i])
    if not block.all_active:
        for i in range(rows):
            if not block.active[i]:
                memset(to + i * classes, 0, classes * sizeof(float))
    if not direct:
        for i in range(rows):
            narrow(<const float*> to + i * classes, grad + i * batch.grad.row_stride, batch.grad.storage, classes)


cdef inline void take_out_pivots(const long long* pivot, Py_ssize_t rows, Py_ssize_t classes,
                                 FlatWork* work) noexcept nogil:
    # For the sums. Where a pivot is the target nothing else is asked of it: its place is given to the gradient
    # by the target.
    cdef Py_ssize_t i
    cdef float* at
    cdef float pivots[BLOCK_ROWS]
    cdef float* e = work.e
    for i in range(rows):
        at = e + pivot[i]
        pivots[i] = at[0]
        at[0] = 0
        e += classes
    for i in range(rows, BLOCK_ROWS):
        pivots[i] = 1
    i = 0
    while i < rows:
        store_wide(&work.inverse[i], inverse_of(widen_lanes(load(<const float*> &pivots[i]))))
        i += lanes(<float> 0)


cdef inline void prepare_mixed(const float* u, Py_ssize_t rows, Py_ssize_t classes, RowBlock* block,
                               FlatWork* work) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(rows):
        work.pivot[i] = block.label[i] if block.label[i] >= 0 else 0
    mixed_exponentials(u, rows, classes, block, work)
    for i in range(rows):
        if block.label[i] >= 0:
            block.maximum[i] = u[work.pivot[i]]
            block.target_logit[i] = u[block.label[i]]
            block.target_exp[i] = work.e[i * classes + block.label[i]]
        u += classes


cdef inline void finish_mixed(Py_ssize_t rows, Py_ssize_t classes, RowBlock* block, FlatWork* work) noexcept nogil:
    # A maximum that is not the target is a class as any other.
    cdef Py_ssize_t i
    for i in range(rows):
        if block.label[i] < 0:
            block.others[i] = 0.0
        elif work.pivot[i] == block.label[i]:
            block.target_exp[i] = 1.0
        else:
            block.target_exp[i] *= work.inverse[i]
            work.e[i * classes + work.pivot[i]] = <float> (1.0 / work.inverse[i])


cdef double flat_block(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, RowBlock* block,
                       FlatWork* work) noexcept nogil:
    # Returns the sum of the losses where that is all that is wanted of them.
    cdef Py_ssize_t classes = batch.classes, i
    cdef bint wants_grad = batch.grad.data != NULL, only_sum = wants_only_their_sum(batch)
    cdef const float* u = flat_logits(batch, row, rows, work)
    cdef bint moderate = flat_exponentials(u, work.e, rows * classes, <const char*> (u + AHEAD),
                                           row_address(&batch.grad, row) if wants_grad else <char*> work.e)
    cdef bint is_simple = moderate and block.all_active
    if not work.simple:
        for i in range(BLOCK_ROWS):
            block.maximum[i] = block.target_logit[i] = block.others[i] = 0.0
            block.target_exp[i] = 1.0
    work.simple = is_simple
    if not is_simple:
        prepare_mixed(u, rows, classes, block, work)
    take_out_pivots(&block.label[0] if is_simple else &work.pivot[0], rows, classes, work)
    flat_sums(work.e, rows, classes, &work.parts[0], &work.inverse[0], &block.others[0])
    if not is_simple:
        finish_mixed(rows, classes, block, work)
    for i in range(rows, (rows + 15) // 16 * 16):
        block.others[i] = 0.0
    finish_rows(batch, block, rows, not only_sum, wants_grad)
    if wants_grad:
        flat_derivatives(batch, row, rows, block, work)
    return sum_of_losses(block, rows) if only_sum else 0.0


cdef int run_flat(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, double* total) noexcept nogil:
    # Rows [start, stop) of a batch that goes flat.
    cdef RowBlock block
    cdef FlatWork work
    cdef int width = lanes(<float> 0), status = OK
    cdef Py_ssize_t row = start, rows, i, size = (BLOCK_ROWS * batch.classes + 32) * sizeof(float)
    cdef char* memory = <char*> malloc(2 * size + batch.classes * width * sizeof(int) + 64)
    cdef char* aligned = memory + (64 - <size_t> memory % 64)
    if memory == NULL:
        return NO_MEMORY
    work.u = <float*> aligned
    work.e = <float*> (aligned + size)
    work.row_of = <int*> (aligned + 2 * size)
    for i in range(batch.classes * width):
        work.row_of[i] = <int> (i // batch.classes)
    cdef Py_ssize_t block_rows = BLOCK_ROWS
    while block_rows > 16 and block_rows * batch.classes > FLAT_BLOCK:
        block_rows //= 2
    begin_batch(batch, &block)
    work.simple = False
    while row < stop:
        rows = side_by_side(&batch.logits, row, min_size(block_rows, stop - row))
        rows = side_by_side(&batch.grad, row, rows)
        status = begin_rows(batch, row, rows, &block)
        if status != OK:
            break
        total[0] += flat_block(batch, row, rows, &block, &work)
        if not wants_only_their_sum(batch):
            end_rows(batch, row, rows, &block, False, <float> 0, total)
        row += rows
    free(memory)
    return status
