# Planes: the class axis is not the contiguous one, as in (N, C, H, W) with axis=1. Hard labels, float32 or
# narrower, as the flat kernel has them.
#
# Exponentials of moderate logits do not ask for their row's maximum, so a run of rows goes through class by
# class: its part of each plane is read once, as one stream, and written once. Between the two its
# exponentials wait in scratch. Sums, factors and targets of rows lie beside each other as the rows do:
# nothing is transposed. With AVX2 on Zen 3 (8, 21, 256, 256) takes 0.82 ns an element so, and 1.9 by tiles;
# (8, 150, 128, 128) 0.7, and 1.7.

cdef enum:
    RUN_ROWS = 1024      # 4 KB of float32 of each class; by 512 (8, 21, 256, 256) takes 1.00
    RUN_BYTES = 1048576  # all classes of them; with an eighth (4, 1000, 64, 64) takes 1.3, with this 0.82


cdef struct PlaneWork:
    float* e            # exponentials of a run, class by class
    float* u            # its logits, where they cannot be read in place
    Py_ssize_t apart    # elements from one class to the next of both
    const char* logits  # those of the run, in place or not
    Py_ssize_t logits_apart  # bytes
    float* row          # one row's exponentials
    bint moderate       # whether the run is
    bint all_active     # whether all its rows are used
    bint simple         # whether the maxima of the last block are 0
    double pivot_exp[BLOCK_ROWS]  # of a block, see FlatWork
    long long pivot[BLOCK_ROWS]
    float factors[RUN_ROWS]
    float at_target[RUN_ROWS]
    float label[RUN_ROWS]  # -1 where the row is not used


cdef inline bint goes_by_planes(const Batch* batch) noexcept nogil:
    return (needs_one_factor(batch) and is_plane(&batch.logits)
            and (batch.grad.data == NULL or is_plane(&batch.grad)))


cdef void begin_run(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, PlaneWork* work) noexcept nogil:
    # Fetches what is read next, the same rows of the next class (0.97 ns an element without).
    cdef float extremes[32]
    cdef char* source = row_address(&batch.logits, row)
    cdef char* ahead
    cdef const float* u
    cdef float* e = work.e
    cdef Py_ssize_t j
    begin_extremes(&extremes[0])
    work.logits = source if batch.logits.storage == FLOAT32 else <char*> work.u
    work.logits_apart = (batch.logits.class_stride if batch.logits.storage == FLOAT32
                         else work.apart * <Py_ssize_t> sizeof(float))
    for j in range(batch.classes):
        u = <const float*> source
        if batch.logits.storage != FLOAT32:
            u = work.u + j * work.apart
            widen(source, batch.logits.storage, work.u + j * work.apart, rows)
        source += batch.logits.class_stride
        ahead = source if j + 1 < batch.classes else row_address(&batch.logits, row + rows)
        flat_exponentials(u, rows, e, ahead, <char*> e, &extremes[0])
        e += work.apart
    work.moderate = all_moderate(&extremes[0])
    work.all_active = True


cdef inline void plane_sums(const float* e, Py_ssize_t apart, Py_ssize_t classes, Py_ssize_t rows,
                            bint exactly, double* others) noexcept nogil:
    # As flat_sums: exactly, or with one rounding in float.
    cdef Py_ssize_t group = 0, j
    cdef wide_sum[float] nothing, sum
    while group < rows:
        sum = nothing
        j = 0
        while not exactly and j + 2 <= classes:
            sum.add(load(e + j * apart) + load(e + (j + 1) * apart))
            j += 2
        while j < classes:
            sum.add(load(e + j * apart))
            j += 1
        store_wide(others + group, sum.lanes())
        e += lanes(<float> 0)
        group += lanes(<float> 0)
    for group in range(rows, (rows + 15) // 16 * 16):
        others[group] = 0.0


cdef double plane_block(const Batch* batch, Py_ssize_t first, Py_ssize_t rows, RowBlock* block,
                        PlaneWork* work) noexcept nogil:
    # Rows from `first` of the run on: see flat_block.
    cdef bint wants_grad = batch.grad.data != NULL, only_sum = wants_only_their_sum(batch)
    cdef bint simple = work.moderate and block.all_active
    cdef float* e = work.e + first
    cdef const long long* pivot = &block.label[0] if simple else &work.pivot[0]
    cdef Py_ssize_t i, j
    if not work.simple:
        for i in range(BLOCK_ROWS):
            block.maximum[i] = block.target_logit[i] = 0.0
    work.simple = simple
    if not simple:
        for i in range(rows):
            work.pivot[i] = block.label[i] if block.active[i] else 0
    if not work.moderate:
        do_immoderate_rows(work.logits + first * sizeof(float), work.logits_apart, e, work.apart,
                           batch.classes, rows, block, &work.pivot[0])
    take_out_pivots(e, work.apart, 1, pivot, rows, &work.pivot_exp[0], &block.target_exp[0])
    if batch.kind == FOCAL:
        refine_pivots(work.logits + first * sizeof(float), work.logits_apart, sizeof(float), pivot, rows,
                      &work.pivot_exp[0], &block.target_exp[0])
    plane_sums(e, work.apart, batch.classes, rows, batch.kind == FOCAL, &block.others[0])
    if not simple:
        settle_pivots(e, work.apart, 1, pivot, rows, &work.pivot_exp[0], block)
    finish_rows(batch, block, rows, &work.pivot_exp[0], not only_sum, wants_grad)
    if wants_grad:
        if flat_factors(block, rows, &work.factors[first]):
            for i in range(rows):
                if not is_extreme(block.scale[i] * block.pull[i]):
                    continue
                for j in range(batch.classes):
                    work.row[j] = e[j * work.apart + i]
                scale(<const float*> work.row, block.scale[i] * block.pull[i] * work.pivot_exp[i],
                      1.0 / work.pivot_exp[i], 1.0, work.row, batch.classes)
                for j in range(batch.classes):
                    e[j * work.apart + i] = work.row[j]
                work.factors[first + i] = 1
        narrow_rows(&block.at_target[0], rows, 1.0, &work.at_target[first])
        for i in range(rows):
            work.label[first + i] = <float> block.label[i]
        work.all_active = work.all_active and block.all_active
    return sum_of_losses(block, &work.pivot_exp[0], rows) if only_sum else 0.0


cdef void write_plane(const PlaneWork* work, Py_ssize_t rows, Py_ssize_t j, float* to, const char* ahead,
                      Py_ssize_t size) noexcept nogil:
    # The gradient of one class. A row's target is found by comparison: to write it after all others asks for
    # a line of the cache that is no longer there. Fetches the lines of the next class, `size` bytes a row
    # (0.82 ns an element; 0.92 without, 0.97 where they are fetched beside the logits).
    cdef int width = lanes(<float> 0)
    cdef const float* e = work.e + j * work.apart
    cdef vec[float] this_class = splat(<float> j), minus_one = splat(<float> -1), label, y
    cdef Py_ssize_t i = 0
    while i < rows:
        fetch_to_write(ahead + i * size)
        label = load(&work.label[i])
        y = load(e + i) * load(&work.factors[i])
        y = select(equal(label, this_class), load(&work.at_target[i]), y)
        if not work.all_active:
            y = keep(less(minus_one, label), y)
        if i + width <= rows:
            store(to + i, y)
        else:
            store_first(to + i, rows - i, y)
        i += width


cdef void end_run(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, PlaneWork* work) noexcept nogil:
    cdef char* to = row_address(&batch.grad, row)
    cdef char* ahead
    cdef Py_ssize_t size = storage_size(batch.grad.storage), j
    cdef float* e = work.e
    for j in range(batch.classes):
        ahead = to + batch.grad.class_stride
        if batch.grad.storage == FLOAT32:
            write_plane(work, rows, j, <float*> to, ahead, size)
        else:
            write_plane(work, rows, j, e, ahead, size)
            narrow(<const float*> e, to, batch.grad.storage, rows)
        to = ahead
        e += work.apart


cdef int run_planes(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, double* total) noexcept nogil:
    # Rows [start, stop) of a batch that goes by planes.
    cdef RowBlock block
    cdef PlaneWork work
    cdef int status = OK
    cdef Py_ssize_t row = start, run_rows = RUN_ROWS, together, done, rows, line, run
    cdef bint wants_grad = batch.grad.data != NULL
    cdef char* memory
    while run_rows > BLOCK_ROWS and (run_rows * batch.classes * <Py_ssize_t> sizeof(float) > RUN_BYTES
                                     or run_rows // 2 >= stop - start):
        run_rows //= 2
    work.apart = run_rows + 16  # no power of two: a row of the run would meet itself in the cache
    run = work.apart * batch.classes + 16
    line = (batch.classes + 31) // 16 * 16
    memory = <char*> malloc((line + (run if batch.logits.storage == FLOAT32 else 2 * run)) * sizeof(float)
                            + 64)
    if memory == NULL:
        return NO_MEMORY
    work.row = <float*> (memory + (64 - <size_t> memory % 64))
    work.e = work.row + line
    work.u = work.e + run
    work.simple = False
    begin_batch(batch, &block)
    while row < stop and status == OK:
        together = side_by_side(&batch.logits, row, min_size(run_rows, stop - row))
        together = side_by_side(&batch.grad, row, together)
        begin_run(batch, row, together, &work)
        done = 0
        while done < together and status == OK:
            rows = min_size(BLOCK_ROWS, together - done)
            status = begin_rows(batch, row + done, rows, &block)
            if status == OK:
                total[0] += plane_block(batch, done, rows, &block, &work)
                if not wants_only_their_sum(batch):
                    end_rows(batch, row + done, rows, &block, batch.classes > SHORT_ROW, <float> 0, total)
            done += rows
        if wants_grad and status == OK:
            end_run(batch, row, together, &work)
        row += together
    free(memory)
    return status
