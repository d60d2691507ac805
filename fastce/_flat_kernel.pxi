# Up to some thousand classes and hard labels, float32 or narrower, in rows: a block of rows is done as if it
# were one.
#
# Exponentials do not ask which row they belong to if nothing is taken from the logits before, and all of a
# block are moderate but for the odd row, which is done once more, relative to its maximum. They go to scratch
# that the first-level cache holds, and each loop over a block asks for one thing. Each row has a pivot, the
# target, or where it is not moderate a maximum, and is summed up without it, so that nothing cancels. With
# AVX2 on Zen 3 65536 x 10 takes 0.83 ns an element so, and 1.57 by tiles; 65536 x 100 0.54, and 0.94; 8192 x
# 1000 0.45, and 0.65 row by row.

cdef enum:
    FLAT_CLASSES = 2048    # longer rows are done by chunks, and fill the cache alone
    FLAT_ELEMENTS = 2048   # of a block, if that are at least FLAT_ROWS: 8 KB of scratch. 65536 x 100 takes
    #                        0.54 ns an element, and 0.80 by 64 rows; 8192 x 1000 0.50 by 4, 0.55 by 16 or 2
    FLAT_ROWS = 4
    FLAT_AHEAD = 2048      # elements from a logit to the one that is fetched meanwhile: 8192 x 1000 takes
    #                        0.44 with it, 0.50 without, and 0.61 if the gradient's lines are not fetched
    SPREAD_CLASSES = 64    # up to so many classes the factors of rows are spread by a look-up in registers,
    #                        and immoderate rows done a vector at a time: if all of 10 classes are, 3.8 ns an
    #                        element, and 6.9 one by one; 50 classes 2.3, and 3.5


cdef struct FlatWork:
    float* u          # a block of logits, where they cannot be read in place
    float* e          # its exponentials
    float* maxima     # see maximum_of and exponentials
    float* sums
    float* u_tile     # see _tile_kernel.pxi: a block with immoderate rows, of up to SPREAD_CLASSES
    float* e_tile
    float* stage
    int* row_of       # which row of a vector of rows each lane of its numbers belongs to
    double pivot_exp[BLOCK_ROWS]
    double parts[8 * BLOCK_ROWS]  # of a row's sum
    long long pivot[BLOCK_ROWS]
    bint simple       # whether the maxima of the last block are 0


cdef inline bint needs_one_factor(const Batch* batch) noexcept nogil:
    # Hard labels and nothing unusual, in float: the gradient of a row is its exponentials times one number,
    # but for the label's.
    return (batch.labels.data != NULL and batch.logits.storage != FLOAT64
            and 0 < batch.classes <= FLAT_CLASSES
            and (batch.kind == CROSS_ENTROPY or batch.kind == FOCAL)
            and not is_soft(batch) and batch.mask.data == NULL and batch.z_loss == 0.0
            and batch.logit_scale == 1.0 and batch.softcap == 0.0
            and batch.hess.data == NULL and batch.log_sum_exp == NULL and batch.argmax == NULL
            and batch.maximum == NULL and batch.others == NULL and batch.target_logit == NULL)


cdef inline bint goes_flat(const Batch* batch) noexcept nogil:
    return needs_one_factor(batch) and not is_plane(&batch.logits) and not is_plane(&batch.grad)


cdef inline bint lies_flat(const Batch* batch, const Matrix* matrix) noexcept nogil:
    return (matrix.storage == FLOAT32
            and matrix.row_stride == batch.classes * <Py_ssize_t> sizeof(float))


cdef inline const float* flat_logits(const Batch* batch, Py_ssize_t row, Py_ssize_t rows,
                                     FlatWork* work) noexcept nogil:
    cdef const char* source = row_address(&batch.logits, row)
    cdef Py_ssize_t i
    if lies_flat(batch, &batch.logits):
        return <const float*> source
    for i in range(rows):
        widen(source, batch.logits.storage, work.u + i * batch.classes, batch.classes)
        source += batch.logits.row_stride
    return work.u


cdef inline void begin_extremes(float* extremes) noexcept nogil:
    # Of no logits, lane by lane: the least ones, then the greatest.
    store(extremes, splat(<float> INFINITY))
    store(extremes + lanes(<float> 0), splat(<float> -INFINITY))


cdef inline bint all_moderate(const float* extremes) noexcept nogil:
    return are_moderate(-reduce_max(-load(extremes)), reduce_max(load(extremes + lanes(<float> 0))))


# No inline function, so that the loop has all registers.
cdef void flat_exponentials(const float* u, Py_ssize_t count, float* e, const char* ahead, const char* to,
                            float* extremes) noexcept nogil:
    # exp(u), and some numbers behind. Fetches logits of a later block, and the lines that it will write.
    cdef int width = lanes(<float> 0)
    cdef vec[float] lowest = load(<const float*> extremes), highest = load(<const float*> extremes + width)
    cdef vec[float] x, y
    cdef Py_ssize_t i = 0
    while i + 2 * width <= count:
        fetch(ahead + i * sizeof(float))
        fetch_to_write(to + i * sizeof(float))
        if 2 * width * <int> sizeof(float) > cache_line:
            fetch(ahead + i * sizeof(float) + cache_line)
            fetch_to_write(to + i * sizeof(float) + cache_line)
        x = load(u + i)
        y = load(u + i + width)
        highest = max(y, max(x, highest))
        lowest = min(y, min(x, lowest))
        store(e + i, moderate_exp(x))
        store(e + i + width, moderate_exp(y))
        i += 2 * width
    while i < count:
        x = load(u + i) if i + width <= count else load_first(u + i, count - i, read(u + i))
        highest = max(x, highest)
        lowest = min(x, lowest)
        store(e + i, moderate_exp(x))
        i += width
    store(extremes, lowest)
    store(extremes + width, highest)


cdef inline Py_ssize_t position_of(const float* u, Py_ssize_t count, float number) noexcept nogil:
    # Where the number first is; `count` if it is nowhere.
    cdef Py_ssize_t i = 0
    while i + lanes(number) <= count and not any(equal(load(u + i), splat(number))):
        i += lanes(number)
    while i < count and read(u + i) != number:
        i += 1
    return i


cdef void flat_row(const float* u, Py_ssize_t classes, RowBlock* block, Py_ssize_t i, float* e,
                   FlatWork* work) noexcept nogil:
    # A row of a block that is not moderate, for it may not be either: raised exponentials then, relative to
    # the maximum, which is the pivot.
    cdef float highest, lowest, reference
    cdef AnySize any_size
    cdef Ahead nothing
    memset(&nothing, 0, sizeof(nothing))
    highest = maximum_of(u, classes, work.maxima, &lowest)
    if not are_moderate(lowest, highest):
        reference = highest if highest > -INFINITY else 0
        exponentials(u, classes, e, work.maxima, work.sums, &lowest, &reference, &nothing, any_size)
        work.pivot[i] = min_size(position_of(u, classes, highest), classes - 1)
    block.maximum[i] = read(u + work.pivot[i])
    block.target_logit[i] = read(u + block.label[i])


cdef inline vec[float] load_up_to(const char* source, Py_ssize_t count) noexcept nogil:
    # 0 behind.
    if count >= lanes(<float> 0):
        return load(<const float*> source)
    return load_first(<const float*> source, count, <float> 0)


cdef void do_immoderate_rows(const char* u, Py_ssize_t u_apart, float* e, Py_ssize_t e_apart,
                             Py_ssize_t classes, Py_ssize_t rows, RowBlock* block, long long* pivot
                             ) noexcept nogil:
    # As flat_row, for a block whose rows lie beside each other; `u_apart` bytes from one class to the next.
    cdef int width = lanes(<float> 0)
    cdef float pivots[16]
    cdef float highest[16]
    cdef float immoderate[16]
    cdef vec[float] zero = splat(<float> 0), infinity = splat(<float> INFINITY), low, high, reference, x, top
    cdef vec[float] least = splat(smallest_moderate(<float> 0)), most = splat(largest_moderate(<float> 0))
    cdef mask[float] chosen
    cdef Py_ssize_t group = 0, i, j, k
    while group < rows:
        low = infinity
        high = -infinity
        for j in range(classes):
            x = load_up_to(u + j * u_apart, rows - group)
            low = min(x, low)
            high = max(x, high)
        chosen = less(low, least) | less(most, high)
        if any(chosen):
            reference = select(less(-infinity, high), high, zero)
            top = zero
            for j in range(classes):
                x = load_up_to(u + j * u_apart, rows - group)
                top = select(equal(x, high), splat(<float> j), top)
                x = select(chosen, raised_exp(x - reference), load(<const float*> e + j * e_apart))
                store(e + j * e_apart, x)
            store(&pivots[0], top)
            store(&highest[0], high)
            store(&immoderate[0], select(chosen, splat(<float> 1), zero))
            for k in range(min_size(width, rows - group)):
                i = group + k
                if block.active[i] and immoderate[k] != 0:
                    pivot[i] = <long long> pivots[k]
                    block.maximum[i] = highest[k]
                    block.target_logit[i] = read(<const float*> (u + block.label[i] * u_apart) + k)
        u += width * sizeof(float)
        e += width
        group += width


cdef void flat_tile(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, RowBlock* block,
                    FlatWork* work) noexcept nogil:
    # The immoderate rows of a block of few classes, by way of tiles.
    cdef double unused[BLOCK_ROWS]
    cdef Matrix e
    memset(&e, 0, sizeof(e))
    e.data = <char*> work.e
    e.storage = FLOAT32
    e.class_stride = sizeof(float)
    e.row_stride = batch.classes * <Py_ssize_t> sizeof(float)
    e.inner = rows
    load_tile(&batch.logits, row, rows, batch.classes, work.u_tile, work.stage, &unused[0])
    load_tile(&e, 0, rows, batch.classes, work.e_tile, work.stage, &unused[0])
    do_immoderate_rows(<const char*> work.u_tile, BLOCK_ROWS * sizeof(float), work.e_tile, BLOCK_ROWS,
                       batch.classes, rows, block, &work.pivot[0])
    store_tile(<const float*> work.e_tile, &e, 0, rows, batch.classes, work.stage, NULL)


cdef inline void take_out_pivots(float* e, Py_ssize_t class_apart, Py_ssize_t row_apart,
                                 const long long* pivot, Py_ssize_t rows, double* pivot_exp,
                                 double* target_exp) noexcept nogil:
    # So that the sums are those of the others. Most pivots are targets.
    cdef float pivots[BLOCK_ROWS]
    cdef wide_vec[float] wide
    cdef Py_ssize_t i
    for i in range(rows):
        pivots[i] = e[pivot[i] * class_apart]
        e[pivot[i] * class_apart] = 0
        e += row_apart
    for i in range(rows, (rows + 15) // 16 * 16):  # whole vectors
        pivots[i] = 1
    i = 0
    while i < rows:
        wide = widen_lanes(load(<const float*> &pivots[i]))
        store_wide(pivot_exp + i, wide)
        store_wide(target_exp + i, wide)
        i += lanes(<float> 0)


cdef inline void refine_pivots(const char* u, Py_ssize_t class_apart, Py_ssize_t row_apart,
                               const long long* pivot, Py_ssize_t rows, double* pivot_exp,
                               double* target_exp) noexcept nogil:
    # From the pivots' logits, in double: the error of float32's exponential is 0.8 ULP, which focal loss
    # multiplies by gamma and 1 + gamma (gamma = 2, without FMA: 5.7 ULP, and 4.3 with this). A raised one is
    # a power of two. `u` is apart in bytes.
    cdef double logits[BLOCK_ROWS]
    cdef vec[double] raised = splat(1.0 / lowering(<float> 0)), unit = splat(moderate_unit(<float> 0)), x
    cdef Py_ssize_t i
    for i in range(rows):
        logits[i] = read(<const float*> (u + pivot[i] * class_apart))
        u += row_apart
    for i in range(rows, (rows + 15) // 16 * 16):
        logits[i] = 0.0
    i = 0
    while i < rows:
        x = load(pivot_exp + i)
        x = select(equal(x, raised), x, unit * exp(load(<const double*> &logits[i])))
        store(pivot_exp + i, x)
        store(target_exp + i, x)
        i += lanes(<double> 0)


cdef inline void settle_pivots(float* e, Py_ssize_t class_apart, Py_ssize_t row_apart, const long long* pivot,
                               Py_ssize_t rows, double* pivot_exp, RowBlock* block) noexcept nogil:
    # Where some row is not used, or its pivot is not its target.
    cdef Py_ssize_t i
    for i in range(rows):
        if not block.active[i]:
            block.others[i] = 0.0
            pivot_exp[i] = block.target_exp[i] = 1.0
        elif pivot[i] != block.label[i]:  # the maximum's gradient is that of any class
            block.target_exp[i] = e[block.label[i] * class_apart]
            e[pivot[i] * class_apart] = <float> pivot_exp[i]
        e += row_apart


cdef inline vec[double] widened_sum(vec[float] x, vec[float] y, bint exactly) noexcept nogil:
    # Of x and y; exactly, without a rounding in float: focal loss raises it to 1 + gamma (gamma = 2: 6.3 ULP
    # with two of them, and 3.0 without).
    cdef wide_vec[float] wide_x, wide_y
    cdef vec[double] sum
    cdef int k
    if not exactly:
        return folded(x + y)
    wide_x = widen_lanes(x)
    wide_y = widen_lanes(y)
    sum = wide_x.part[0] + wide_y.part[0]
    for k in range(1, wide_x.parts):
        sum = sum + (wide_x.part[k] + wide_y.part[k])
    return sum


cdef inline void sum_short_rows(const float* e, Py_ssize_t rows, Py_ssize_t classes, bint exactly,
                                double* others) noexcept nogil:
    # As many rows at once as there are sums in a vector.
    cdef int width = lanes(<float> 0), together = lanes(<double> 0), k
    cdef Py_ssize_t whole = classes - classes % width, row = 0, j
    cdef vec[double] sums[8]
    cdef vec[float] rest, zero = splat(<float> 0)
    while row < rows:
        for k in range(together):  # rows past the last are in scratch, too
            rest = load_first(e + k * classes + whole, classes - whole, <float> 0)
            sums[k] = widened_sum(zero if whole == 0 else load(e + k * classes), rest, exactly)
        j = width
        while j < whole:
            for k in range(together):
                sums[k] = sums[k] + widened_sum(load(e + k * classes + j), zero, exactly)
            j += width
        store(others + row, sums_of_lanes(&sums[0]))
        e += together * classes
        row += together


cdef inline void add_long_rows(const float* e, Py_ssize_t rows, Py_ssize_t classes, bint exactly,
                               double* parts) noexcept nogil:
    # Four vectors in float, for precision no more.
    cdef int width = lanes(<float> 0)
    cdef Py_ssize_t whole = classes - classes % width, row, j
    cdef vec[double] sum
    cdef vec[float] zero = splat(<float> 0)
    for row in range(rows):
        sum = widened_sum(load_first(e + whole, classes - whole, <float> 0), zero, exactly)
        j = 0
        while not exactly and j + 4 * width <= whole:
            sum = sum + folded((load(e + j) + load(e + j + width))
                               + (load(e + j + 2 * width) + load(e + j + 3 * width)))
            j += 4 * width
        while j < whole:
            sum = sum + widened_sum(load(e + j), zero, exactly)
            j += width
        store(parts, sum)
        e += classes
        parts += lanes(<double> 0)


cdef void flat_sums(const Batch* batch, Py_ssize_t rows, FlatWork* work, double* others) noexcept nogil:
    # 0 for rows past the last, up to whole vectors.
    cdef vec[double] sums[8]
    cdef Py_ssize_t row = 0, classes = batch.classes
    cdef int apart = lanes(<double> 0), k
    cdef bint exactly = batch.kind == FOCAL
    if classes < 4 * lanes(<float> 0):
        sum_short_rows(work.e, rows, classes, exactly, others)
    else:
        add_long_rows(work.e, rows, classes, exactly, &work.parts[0])
        while row < rows:
            for k in range(apart):
                sums[k] = load(<const double*> &work.parts[(row + k) * apart])
            store(others + row, sums_of_lanes(&sums[0]))
            row += apart
    for row in range(rows, (rows + 15) // 16 * 16):
        others[row] = 0.0


cdef inline bint flat_factors(const RowBlock* block, Py_ssize_t rows, float* factors) noexcept nogil:
    # What makes exponentials the gradient; True if some are no normal numbers.
    cdef wide_vec[float] factor
    cdef vec[double] smallest = splat(smallest_factor(<float> 0)), zero = splat(0.0), size
    cdef vec[double] largest = splat(0.5 / smallest_factor(<float> 0))
    cdef mask[double] extreme = less(zero, zero)
    cdef Py_ssize_t i = 0
    cdef int k
    while i < rows:
        for k in range(factor.parts):
            factor.part[k] = load(&block.scale[i]) * load(&block.pull[i])
            size = abs(factor.part[k])
            extreme = extreme | (less(size, smallest) & less(zero, size)) | less(largest, size)
            i += lanes(<double> 0)
        store(factors + i - lanes(<float> 0), narrow_lanes(factor))
    return any(extreme)


cdef inline bint is_extreme(double factor) noexcept nogil:
    return factor != 0.0 and first_factor(factor, <float> 0) != 1.0


cdef void spread_and_multiply(const float* e, const float* factors, const int* row_of, Py_ssize_t rows,
                              Py_ssize_t classes, float* to) noexcept nogil:
    # Whole vectors of rows, whose numbers are as many vectors as there are classes.
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


cdef void flat_derivatives(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, const RowBlock* block,
                           FlatWork* work) noexcept nogil:
    cdef char* grad = row_address(&batch.grad, row)
    cdef float factors[BLOCK_ROWS]
    cdef float at_target[BLOCK_ROWS]
    cdef Py_ssize_t classes = batch.classes, spread = 0, i
    cdef bint direct = lies_flat(batch, &batch.grad)
    cdef float* to = <float*> grad if direct else work.e
    if flat_factors(block, rows, &factors[0]):
        for i in range(rows):
            if not is_extreme(block.scale[i] * block.pull[i]):
                continue
            scale(<const float*> work.e + i * classes, block.scale[i] * block.pull[i] * work.pivot_exp[i],
                  1.0 / work.pivot_exp[i], 1.0, work.e + i * classes, classes)
            factors[i] = 1
    if classes <= SPREAD_CLASSES:
        spread = rows - rows % lanes(<float> 0)
        spread_and_multiply(work.e, &factors[0], work.row_of, spread, classes, to)
    for i in range(spread, rows):
        multiply(<const float*> work.e + i * classes, factors[i], to + i * classes, classes)
    narrow_rows(&block.at_target[0], rows, 1.0, &at_target[0])
    put_at_labels(block, rows, &at_target[0], <char*> to, sizeof(float), classes * sizeof(float))
    if not block.all_active:
        for i in range(rows):
            if not block.active[i]:
                memset(to + i * classes, 0, classes * sizeof(float))
    if not direct:
        for i in range(rows):
            narrow(<const float*> to + i * classes, grad + i * batch.grad.row_stride, batch.grad.storage,
                   classes)


cdef double flat_block(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, RowBlock* block,
                       FlatWork* work) noexcept nogil:
    # Returns the sum of the losses where that is all that is wanted of them.
    cdef Py_ssize_t classes = batch.classes, i
    cdef bint wants_grad = batch.grad.data != NULL, only_sum = wants_only_their_sum(batch)
    cdef const float* u = flat_logits(batch, row, rows, work)
    cdef char* to = row_address(&batch.grad, row) if wants_grad else <char*> work.e
    cdef float extremes[32]
    begin_extremes(&extremes[0])
    flat_exponentials(u, rows * classes, work.e, <const char*> (u + FLAT_AHEAD), to, &extremes[0])
    cdef bint is_moderate = all_moderate(&extremes[0]), simple = is_moderate and block.all_active
    cdef const long long* pivot
    if not work.simple:
        for i in range(BLOCK_ROWS):
            block.maximum[i] = block.target_logit[i] = 0.0
    work.simple = simple
    if not simple:
        for i in range(rows):
            work.pivot[i] = block.label[i] if block.active[i] else 0
    if not is_moderate and classes <= SPREAD_CLASSES:
        flat_tile(batch, row, rows, block, work)
    elif not is_moderate:
        for i in range(rows):
            if block.active[i]:
                flat_row(u + i * classes, classes, block, i, work.e + i * classes, work)
    pivot = &block.label[0] if simple else &work.pivot[0]
    take_out_pivots(work.e, 1, classes, pivot, rows, &work.pivot_exp[0], &block.target_exp[0])
    if batch.kind == FOCAL:
        refine_pivots(<const char*> u, sizeof(float), classes * sizeof(float), pivot, rows,
                      &work.pivot_exp[0], &block.target_exp[0])
    flat_sums(batch, rows, work, &block.others[0])
    if not simple:
        settle_pivots(work.e, 1, classes, pivot, rows, &work.pivot_exp[0], block)
    finish_rows(batch, block, rows, &work.pivot_exp[0], not only_sum, wants_grad)
    if wants_grad:
        flat_derivatives(batch, row, rows, block, work)
    return sum_of_losses(block, &work.pivot_exp[0], rows) if only_sum else 0.0


cdef int run_flat(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, double* total) noexcept nogil:
    # Rows [start, stop) of a batch that goes flat.
    cdef RowBlock block
    cdef FlatWork work
    cdef int width = lanes(<float> 0), status = OK
    cdef Py_ssize_t row = start, rows, lane, i, block_rows = BLOCK_ROWS, size, tile_size = 0
    cdef char* memory
    cdef float* aligned
    while block_rows > FLAT_ROWS and block_rows * batch.classes > FLAT_ELEMENTS:
        block_rows //= 2
    size = (block_rows * batch.classes + 31) // 16 * 16  # lines of cache, and a vector more
    if batch.classes <= SPREAD_CLASSES:
        tile_size = BLOCK_ROWS * (batch.classes if batch.classes > 16 else 16) + 16
    memory = <char*> malloc((2 * size + 2 * CHUNK + SPREAD_CLASSES * width + 3 * tile_size) * sizeof(float)
                            + 64)
    if memory == NULL:
        return NO_MEMORY
    aligned = <float*> (memory + (64 - <size_t> memory % 64))
    work.u = aligned
    work.e = aligned + size
    work.maxima = aligned + 2 * size
    work.sums = work.maxima + CHUNK
    work.row_of = <int*> (work.sums + CHUNK)
    work.u_tile = <float*> (work.row_of + SPREAD_CLASSES * width)
    work.e_tile = work.u_tile + tile_size
    work.stage = work.e_tile + tile_size
    if batch.classes <= SPREAD_CLASSES:
        for lane in range(width):  # of rows: the numbers of each in turn
            for i in range(lane * batch.classes, (lane + 1) * batch.classes):
                work.row_of[i] = <int> lane
    work.simple = False
    begin_batch(batch, &block)
    while row < stop:
        rows = side_by_side(&batch.logits, row, min_size(block_rows, stop - row))
        rows = side_by_side(&batch.grad, row, rows)
        status = begin_rows(batch, row, rows, &block)
        if status != OK:
            break
        total[0] += flat_block(batch, row, rows, &block, &work)
        if not wants_only_their_sum(batch):
            end_rows(batch, row, rows, &block, batch.classes > SHORT_ROW, <float> 0, total)
        row += rows
    free(memory)
    return status
