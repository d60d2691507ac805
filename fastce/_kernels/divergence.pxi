# KL divergence of the softmax of two arrays of logits: blocks of rows, and how they are filled from and written to
# memory of any layout.
# Needs rows.pxi, dispatch.pxi, packing.pxi, scratch.pxi, divergence_rows.pxi, divergence_results.pxi,
# divergence_careful.pxi, divergence_shards.pxi.

cdef struct Pairs:
    # Scratch of one call, and the numbers of a block of rows.
    Scratch fill             # for the copies between rows and memory of any layout
    Py_ssize_t rows          # of a block, at most
    Py_ssize_t pitch         # elements from one row to the next in scratch, if packed by rows
    void* student            # logits of a block that cannot be read in place
    void* teacher
    void* a                  # a_j
    void* c                  # c_j, overwritten by the gradient
    void* e                  # the student's exponentials, of a line or, for the Hessian, of all rows
    PairRows* numbers
    Line* lines


cdef inline bint is_in_place(const Pairs* d, const Matrix* matrix, Py_ssize_t rows, real tag) noexcept nogil:
    # Whether a block can be read or written in place. Vectors of rows must be whole.
    if d.fill.by_classes:
        return rows % lanes(tag) == 0 and lies_as_scratch(&d.fill, matrix, tag)
    return matrix.storage == native_storage(tag) and matrix.class_stride == <Py_ssize_t> sizeof(real)


cdef char* divide_divergence(const Batch* batch, Pairs* d, char* memory, real tag) noexcept nogil:
    # Assigns memory to each part of scratch, and returns the end of the last one.
    cdef Py_ssize_t size = sizeof(real), elements = d.rows * d.pitch * size
    cdef bint copies = d.fill.by_classes or batch.mask.data != NULL
    cdef Py_ssize_t staged = max_size(
        max_size(staged_size(&d.fill, &batch.logits, tag), staged_size(&d.fill, &batch.probabilities, tag)),
        max_size(staged_size(&d.fill, &batch.grad, tag), staged_size(&d.fill, &batch.hess, tag)))
    d.numbers = <PairRows*> part(&memory, sizeof(PairRows))
    d.lines = <Line*> part(&memory, d.rows * sizeof(Line))
    if copies or not is_in_place(d, &batch.logits, 0, tag):
        d.student = part(&memory, elements)
    if copies or not is_in_place(d, &batch.probabilities, 0, tag):
        d.teacher = part(&memory, elements)
    d.a = part(&memory, elements)
    d.c = part(&memory, elements)
    d.e = part(&memory, elements if batch.hess.data != NULL
               else d.pitch * (lanes(tag) if d.fill.by_classes else 1) * size)
    if batch.mask.data != NULL:
        d.fill.mask = <unsigned char*> part(&memory, d.rows * d.pitch)
    d.fill.stage = part(&memory, d.rows * d.pitch * staged + d.fill.classes * 8)
    return memory


cdef int begin_divergence(const Batch* batch, Pairs* d, real tag) noexcept nogil:
    cdef Py_ssize_t width = lanes(tag), classes = max_size(batch.classes, 1)
    memset(d, 0, sizeof(d[0]))
    if is_out_of_memory(classes):
        return NO_MEMORY
    d.fill.classes = batch.classes
    d.fill.interleaves = not is_plane(&batch.logits) and batch.classes <= DIVERGENCE_CLASSES
    d.fill.by_classes = d.fill.interleaves or is_plane(&batch.logits)
    d.pitch = (classes + width - 1) // width * width
    d.rows = min_size(max_size(DIVERGENCE_ELEMENTS // d.pitch, 1), BLOCK_ROWS)
    d.fill.class_apart = 1
    d.fill.row_apart = batch.classes
    if d.fill.by_classes:
        d.pitch = classes
        d.rows = BLOCK_ROWS
        while d.rows > DIVERGENCE_ROWS and d.rows * classes > DIVERGENCE_ELEMENTS:
            d.rows //= 2
        d.fill.class_apart = d.rows
        d.fill.row_apart = 1
    d.fill.memory = <char*> malloc(<size_t> divide_divergence(batch, d, NULL, tag) + 64)
    if d.fill.memory == NULL:
        return NO_MEMORY
    divide_divergence(batch, d, d.fill.memory + (64 - <size_t> d.fill.memory % 64), tag)
    memset(d.numbers, 0, sizeof(PairRows))
    return OK


cdef void mask_rows(const Pairs* d, Py_ssize_t count, real* u) noexcept nogil:
    cdef Py_ssize_t j = 0
    while j < count:
        store(u + j, select(load_mask(d.fill.mask + j, <real> 0), load(<const real*> u + j), splat(<real> -INFINITY)))
        j += lanes(<real> 0)


cdef Matrix logits_of_block(const Pairs* d, const Matrix* matrix, void* scratch, Py_ssize_t row, Py_ssize_t rows,
                            real tag) noexcept nogil:
    # The logits of a block, masked, in place or in scratch.
    cdef Matrix lies = matrix[0]
    lies.data = row_address(matrix, row)
    if d.fill.mask == NULL and is_in_place(d, matrix, rows, tag):
        return lies
    fill_scratch(&d.fill, matrix, row, rows, <real*> scratch)
    if d.fill.mask != NULL:
        mask_rows(d, d.fill.classes * (d.fill.class_apart if d.fill.by_classes else rows), <real*> scratch)
    lies.row_stride = d.fill.row_apart * sizeof(real)
    lies.class_stride = d.fill.class_apart * sizeof(real)
    lies.data = <char*> scratch
    return lies


cdef Py_ssize_t find_lines(const Pairs* d, const Matrix* student, const Matrix* teacher, const Matrix* grad,
                           Py_ssize_t rows, real tag) noexcept nogil:
    # Sets the lines of a block, its rows or vectors of rows, given the matrices of the logits and, if it is written in
    # place, of the gradient. Returns their number.
    cdef Py_ssize_t size = sizeof(real), width = lanes(tag), row = 0, count = 0
    cdef Line* line
    while row < rows:
        line = d.lines + count
        line.row = row
        line.by_classes = d.fill.by_classes
        line.z = student.data + row * student.row_stride
        line.t = teacher.data + row * teacher.row_stride
        line.kept = d.fill.mask + row * d.fill.row_apart if d.fill.mask != NULL else NULL
        line.rows = min_size(width, rows - row) if d.fill.by_classes else 1
        if d.fill.by_classes:
            line.vectors = d.fill.classes
            line.rest = 0
            line.z_apart = student.class_stride // size
            line.t_apart = teacher.class_stride // size
            line.apart = d.fill.class_apart
            line.z_ahead = line.t_ahead = cache_line
            line.a = <real*> d.a + row
            line.c = <real*> d.c + row
        else:
            line.vectors = d.fill.classes // width
            line.rest = d.fill.classes % width
            line.z_apart = line.t_apart = line.apart = width
            line.z_ahead = rows * student.row_stride if d.rows > 1 else DIVERGENCE_PART * size
            line.t_ahead = rows * teacher.row_stride if d.rows > 1 else DIVERGENCE_PART * size
            line.a = <real*> d.a + row * d.pitch
            line.c = <real*> d.c + row * d.pitch
        line.to = grad.data + row * grad.row_stride if grad.data != NULL else <char*> line.c
        line.to_apart = grad.class_stride if grad.data != NULL and d.fill.by_classes else line.apart * size
        row += line.rows
        count += 1
    return count


cdef void take_care(const Batch* batch, const Pairs* d, const Line* line, Py_ssize_t row, real tag) noexcept nogil:
    # Computes the rows of a line that need care: with a mask or shards, all of them.
    cdef PairRows* rows = d.numbers
    cdef double inverse_temperature = 1.0 / batch.temperature
    cdef double whole[SUMMARY]
    cdef double ratio[16]
    cdef bint any_careful = False
    cdef Py_ssize_t i
    for i in range(line.row, line.row + line.rows):
        any_careful = any_careful or rows.careful[i] != 0.0
    if not any_careful:
        return
    if batch.whole_rows == NULL:
        find_highest(line, rows, tag)
    for i in range(line.row, line.row + line.rows if batch.whole_rows != NULL else line.row):
        read_summary(batch, row + i, &whole[0])
        take_highest(rows, i, &whole[0], batch.temperature, tag)
    weigh_carefully(line, inverse_temperature, rows, <real*> d.e, tag)
    for i in range(line.row, line.row + line.rows):
        if batch.whole_rows != NULL:
            read_summary(batch, row + i, &whole[0])
            ratio[i - line.row] = center_shard(rows, i, &whole[0], batch.temperature, tag)
        elif rows.careful[i] != 0.0:
            center_carefully(rows, i, batch.temperature, tag)
    change_carefully(line, inverse_temperature, rows, <const real*> d.e, tag)
    for i in range(line.row, line.row + line.rows if batch.whole_rows != NULL else line.row):
        rows.changes[i] = rows.weights[i] * expm1(splat(ratio[i - line.row]))[0]


cdef void change_block(const Batch* batch, const Pairs* d, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t lines,
                       RowBlock* block, real tag) noexcept nogil:
    # The changes of a block, its losses, and its summaries for shards.
    cdef PairRows* numbers = d.numbers
    cdef double temperature = batch.temperature, inverse_temperature = 1.0 / batch.temperature
    cdef double squared = temperature * temperature
    cdef double whole[SUMMARY]
    cdef bint some_dominated = False
    cdef Py_ssize_t i
    for i in range((rows + 15) // 16 * 16):
        begin_numbers(numbers, i, i < rows and block.active[i], d.fill.by_classes)
    if batch.summaries == NULL and batch.whole_rows == NULL and d.fill.mask == NULL:
        for i in range(lines):
            find_first(d.lines + i, numbers, tag)
        if d.rows == 1:
            change_long_row(d.lines, temperature, &block.factor[0], numbers, &block.value[0], tag)
        else:
            for i in range(lines):
                weigh_line(d.lines + i, inverse_temperature, numbers, tag)
            some_dominated = find_centers(numbers, rows, inverse_temperature, tag)
            for i in range(lines):
                if some_dominated:
                    center_dominated(d.lines + i, numbers, tag)
                if d.fill.by_classes or numbers.careful[i] == 0.0:
                    change_line(d.lines + i, inverse_temperature, numbers, tag)
        if find_careful(numbers, rows, inverse_temperature, tag):
            for i in range(lines):
                change_again(d.lines + i, inverse_temperature, numbers, tag)
    for i in range(lines):
        take_care(batch, d, d.lines + i, row, tag)
    finish_pairs(numbers, rows, temperature, &block.factor[0], &block.value[0], tag)
    for i in range(rows if batch.summaries != NULL or batch.whole_rows != NULL else 0):
        if batch.whole_rows != NULL:
            read_summary(batch, row + i, &whole[0])
            if block.active[i]:
                block.value[i] = squared * whole[PART_DIVERGENCE] if has_both(&whole[0]) else NAN
        else:
            summarise_row(numbers, i, block.value[i] / squared, temperature, tag, &whole[0])
            write_summary(batch, row + i, &whole[0])


cdef void write_gradient(const Batch* batch, const Pairs* d, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t lines,
                         bint direct, bint all_count, real tag) noexcept nogil:
    # Writes the gradient in place or through scratch, from which it may be streamed past the caches.
    cdef Py_ssize_t size = sizeof(real), apart, first, streamed = 0, i
    cdef bint streams = batch.streams and not d.fill.by_classes and lies_as_scratch(&d.fill, &batch.grad, tag)
    cdef real* to = <real*> row_address(&batch.grad, row)
    cdef real* grad
    cdef Line part
    for i in range(lines):
        grad = <real*> d.lines[i].to
        apart = d.lines[i].to_apart // size
        if not direct:  # empty_scratch expects contiguous rows
            grad = <real*> d.c + d.lines[i].row * d.fill.row_apart
        if not streams:
            gradient_of_line(d.lines + i, d.numbers, all_count, grad, apart, tag)
            continue
        first = 0
        while first < steps_of(d.lines + i):
            part = part_of(d.lines + i, first, tag)
            gradient_of_line(&part, d.numbers, all_count, grad + first * apart, apart, tag)
            first += steps_of(&part)
            streamed = stream(to, <const real*> d.c, streamed,
                              d.lines[i].row * d.fill.classes + min_size(first * apart, d.fill.classes), True)
    if streams:
        stream(to, <const real*> d.c, streamed, rows * d.fill.classes, False)
    elif not direct:
        empty_scratch(&d.fill, <const real*> d.c, &batch.grad, row, rows)


cdef int do_divergence(const Batch* batch, Pairs* d, Py_ssize_t row, Py_ssize_t rows, RowBlock* block, real tag,
                       double* total) noexcept nogil:
    cdef Py_ssize_t pitch = 1 if d.fill.by_classes else d.pitch, lines, i
    cdef Matrix student, teacher, grad = batch.grad
    cdef bint direct = batch.grad.data != NULL and not batch.streams and is_in_place(d, &batch.grad, rows, tag)
    cdef int status = begin_rows(batch, row, rows, NULL, False, block)
    if status != OK:
        return status
    if d.fill.mask != NULL:
        fill_mask(&d.fill, &batch.mask, row, rows)
    student = logits_of_block(d, &batch.logits, d.student, row, rows, tag)
    teacher = logits_of_block(d, &batch.probabilities, d.teacher, row, rows, tag)
    grad.data = row_address(&grad, row) if direct else NULL
    lines = find_lines(d, &student, &teacher, &grad, rows, tag)
    change_block(batch, d, row, rows, lines, block, tag)
    if batch.hess.data != NULL:  # before the gradient, which may overwrite the logits
        for i in range(lines):
            hessian_of_line(d.lines + i, d.numbers, 1.0 / batch.temperature, <real*> d.e + d.lines[i].row * pitch,
                            <real*> d.e + d.lines[i].row * d.fill.row_apart, tag)
        empty_scratch(&d.fill, <const real*> d.e, &batch.hess, row, rows)
    if batch.grad.data != NULL:
        write_gradient(batch, d, row, rows, lines, direct, block.all_active and d.fill.mask == NULL, tag)
    # Losses are added one by one, so that their sum does not depend on where a block begins.
    end_rows(batch, row, rows, block, True, tag, total)
    return OK


cdef int run_divergence(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, real tag, double* total) noexcept nogil:
    # Computes rows [start, stop) of a batch, in which `probabilities` are the teacher's logits.
    cdef RowBlock block
    cdef Pairs d
    cdef Py_ssize_t row = start, rows
    cdef int status = begin_divergence(batch, &d, tag)
    if status != OK:
        return status
    begin_batch(batch, &block)
    while row < stop and status == OK:
        rows = side_by_side(&batch.logits, row, min_size(d.rows, stop - row))
        rows = side_by_side(&batch.probabilities, row, rows)
        rows = side_by_side(&batch.grad, row, rows)
        rows = side_by_side(&batch.hess, row, rows)
        rows = side_by_side(&batch.mask, row, rows)
        status = do_divergence(batch, &d, row, rows, &block, tag, total)
        row += rows
    if batch.streams:
        end_streams()
    free(d.fill.memory)
    return status
