# The scratch of the block kernel, its packing, and copies between it and memory of any layout.
# Needs dispatch.pxi, conversion.pxi.

cdef enum:  # numbers of rows, in the working precision, that the passes over scratch need
    SOFTMAX_COEFFICIENT = 0  # of the exponential
    TARGET_COEFFICIENT = 1   # of the soft target mass
    UNIT = 2                 # a power of two that brings the row's sum into [1, 2)
    SUM_WITHOUT_PIVOT = 3    # times the unit; for a Hessian whose pivot is the target, the whole sum's rounding error
    PIVOT = 4                # the pivot's exponential, times the unit; for such a Hessian, the whole sum
    HESSIAN_PRODUCT = 5
    HESSIAN_SQUARE = 6
    REFERENCE = 7            # the logit that the others are relative to
    LOG_TOTAL = 8
    GRAD_AT_LABEL = 9
    HESSIAN_AT_LABEL = 10
    LABEL = 11               # -1 for none
    PIVOT_CLASS = 12
    ACTIVE = 13              # 1 or 0
    SHARE = 14               # of label smoothing, for each class
    TOP = 15                 # for a Hessian packed class by class: the largest exponential apart from the pivot. If it
    #                          is nearly all of its row, the Hessian there replaces it
    TOP_CLASS = 16           # and its class, if any row of the run has one; -1 for none
    LSE_COEFFICIENT = 17     # what z-loss adds to the coefficient of the exponential
    ROW_NUMBERS = 18


cdef struct Scratch:
    # The scratch of one call. Element (row, class) of a run is at row * row_apart + class * class_apart.
    char* memory
    RowBlock* block     # aligned to cache lines, which the stack is not
    Py_ssize_t classes
    Py_ssize_t first_class   # 0, unless this is a part of a run
    Py_ssize_t part_classes  # of a part, which fits the cache: parts are filled and emptied one after another
    bint fills_parts    # whether scratch is filled with logits part by part
    bint drops_logits   # and whether these are not needed afterwards, unless they turn out to be out of range
    Py_ssize_t rows     # of a run, at most
    Py_ssize_t class_apart
    Py_ssize_t row_apart
    bint by_classes
    void* u             # logits as they enter the softmax, if they cannot be read in place
    void* e             # exponentials
    void* t             # soft target mass
    Py_ssize_t t_apart  # from one class to the next, if packed class by class; 0: one number per class
    void* slope         # du/dz
    void* hess          # the Hessian, unless it is written in place
    bint direct_hess
    void* stage         # a run between two packings
    void* weight        # class weights; packed by rows, repeated for each row
    unsigned char* mask
    unsigned char* clears  # per row packed by rows: whether masked derivatives must still be cleared; NULL: in all rows
    void* row[ROW_NUMBERS]
    int* row_of         # which row of a vector of rows each lane of its elements belongs to, or NULL
    double* sum_without_pivot  # one per row of a run, like the following
    double* sum_low     # its rounding error so far, for float64
    double* pivot_exp
    double* whole_sum   # for a Hessian: the sum without the pivot, rounded to double
    double* whole_low   # and its rounding error, for float64
    double* statistics  # of a block of rows, if they are wanted: BLOCK_ROWS of each
    long long* pivot
    long long* labels   # of a run that is packed class by class
    double* unit        # for each row of a block, a power of two: see take_units_out
    double* factors     # of exponentials, in stage 3
    bint interleaves    # memory is packed by rows, scratch by classes
    double shared_mass  # of soft targets that all rows share
    bint streams        # whole runs of the gradient are streamed from scratch past the caches
    bint in_gradient    # exponentials are stored in the gradient itself, in the cache or not
    bint is_long        # a run is one row, which is summed in chunks
    bint keeps_exponentials  # of the whole run: otherwise a chunk overwrites those of the previous one
    bint exact          # stage 3 multiplies exponentials by the unit, and may need the sum of all others for each class
    bint has_large_weights  # whether units follow the weights of their rows: see unit_of_large_weights
    bint needs_whole_sums  # for a Hessian whose pivot is the target
    bint largest_pivot  # the pivot is the largest exponential, not the target
    int* dominated      # elements that may be most of their row without being its pivot
    # Of this run:
    Py_ssize_t run_rows
    const void* logits
    Py_ssize_t logits_class_apart
    Py_ssize_t logits_row_apart
    Py_ssize_t exps_apart  # from one class to the next of its exponentials: in e, or in the gradient itself
    const void* targets  # soft target mass: t, or the probabilities in place
    const void* pivot_class  # of each row, packed class by class
    const long long* pivots  # of each row, packed by rows
    bint has_labels     # whether all labels of the run have been loaded
    bint any_ignored    # and whether some are ignored
    bint some_out       # whether rows of the previous run were out of range
    bint mostly_out     # and whether most were
    const char* to_be_written  # where the run writes its gradient first: lines that are worth a prefetch
    bint no_exponentials  # whether none have been computed when the rows of this run are examined
    bint expects_holes  # whether some of the next run may be -inf
    bint holes          # whether some of this run may be
    bint in_range       # whether all its logits are in exp's safe range
    bint none_low       # whether it is known that none is below the range, except -inf
    Py_ssize_t dominated_count
    Py_ssize_t moved[BLOCK_ROWS]  # rows of a block whose pivot is not the target
    Py_ssize_t moved_count
    bint has_tops       # whether a class that is not the pivot is nearly all of some row
    bint all_active
    bint active_ones    # whether all numbers of row[ACTIVE] are 1
    bint zero_logits    # whether maximum and target_logit of the RowBlock are 0


cdef inline void copy_strided(const char* source, Py_ssize_t source_apart, char* to, Py_ssize_t to_apart,
                              Py_ssize_t size, Py_ssize_t count) noexcept nogil:
    # Copies numbers of 8, 4, 2 or 1 bytes.
    cdef Py_ssize_t i, bytes = count * size
    if source_apart == size == to_apart and bytes >= 8:  # not memcpy: its call takes longer than a row of few classes
        for i in range(bytes // 8):
            write(<long long*> (to + 8 * i), read(<const long long*> (source + 8 * i)))
        write(<long long*> (to + bytes - 8), read(<const long long*> (source + bytes - 8)))
    elif size == 4:
        for i in range(count):
            write(<int*> (to + i * to_apart), read(<const int*> (source + i * source_apart)))
    elif size == 8:
        for i in range(count):
            write(<long long*> (to + i * to_apart), read(<const long long*> (source + i * source_apart)))
    elif size == 2:
        for i in range(count):
            write(<short*> (to + i * to_apart), read(<const short*> (source + i * source_apart)))
    else:
        for i in range(count):
            to[i * to_apart] = source[i * source_apart]


cdef void to_rows(const real* source, Py_ssize_t apart, Py_ssize_t rows, Py_ssize_t classes, char* to,
                  Py_ssize_t row_stride) noexcept nogil:
    # Rows of at least a quad of classes, from elements packed class by class, by transposition in registers. The last
    # quad of classes overlaps the one before it.
    cdef Py_ssize_t group = 0, first, k, step = quad(<real> 0)
    cdef vec[real] block[4]
    while group < rows:
        first = 0
        while True:
            for k in range(step):
                prefetch_to_write(to + (group + GROUPS_AHEAD * lanes(<real> 0)) * row_stride
                                  + (first + k) * lanes(<real> 0) * sizeof(real))
                if group + lanes(<real> 0) <= rows:
                    block[k] = load(source + (first + k) * apart + group)
                else:
                    block[k] = load_first(source + (first + k) * apart + group, rows - group, <real> 0)
            store_columns(to + group * row_stride + first * sizeof(real), row_stride, rows - 1 - group, &block[0])
            if first + step >= classes:
                break
            first = min_size(first + step, classes - step)
        group += lanes(<real> 0)


cdef void from_rows(const char* source, Py_ssize_t row_stride, Py_ssize_t rows, Py_ssize_t classes, real* to,
                    Py_ssize_t apart) noexcept nogil:
    # The reverse of to_rows.
    cdef Py_ssize_t group = 0, first, k, step = quad(<real> 0)
    cdef vec[real] block[4]
    while group < rows:
        first = 0
        while True:
            load_columns(source + group * row_stride + first * sizeof(real), row_stride, rows - 1 - group, &block[0])
            for k in range(step):
                prefetch(source + (group + GROUPS_AHEAD * lanes(<real> 0)) * row_stride
                         + (first + k) * lanes(<real> 0) * sizeof(real))
                if group + lanes(<real> 0) <= rows:
                    store(to + (first + k) * apart + group, block[k])
                else:
                    store_first(to + (first + k) * apart + group, rows - group, block[k])
            if first + step >= classes:
                break
            first = min_size(first + step, classes - step)
        group += lanes(<real> 0)


cdef void gather(const Scratch* s, const Matrix* matrix, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t size,
                 char* to) noexcept nogil:
    # Copies a run without conversion, packed like scratch but without gaps between classes or rows.
    cdef const char* source = row_address(matrix, row)
    cdef Py_ssize_t i
    if s.by_classes:
        for i in range(s.classes):
            copy_strided(source + i * matrix.class_stride, matrix.row_stride, to + i * rows * size, size, size,
                         rows)
    else:
        for i in range(rows):
            copy_strided(source + i * matrix.row_stride, matrix.class_stride, to + i * s.classes * size, size, size,
                         s.classes)


cdef void widen_classes(const Scratch* s, const char* source, Py_ssize_t apart, int storage, Py_ssize_t rows,
                        real* to) noexcept nogil:
    # Converts planes that are `apart` bytes from each other.
    cdef Py_ssize_t j
    if apart == rows * storage_size(storage) and s.class_apart == rows:
        widen(source, storage, to, rows * s.classes)
        return
    for j in range(s.classes):
        widen(source, storage, to, rows)
        source += apart
        to += s.class_apart


cdef void fill_scratch(const Scratch* s, const Matrix* matrix, Py_ssize_t row, Py_ssize_t rows,
                       real* to) noexcept nogil:
    # Converts a run into scratch. Its rows are equally spaced.
    cdef const char* source = row_address(matrix, row)
    cdef Py_ssize_t size = storage_size(matrix.storage), i, whole
    cdef real* stage = <real*> s.stage
    cdef bint is_flat = (matrix.class_stride == size and matrix.row_stride == s.classes * size)
    if not s.by_classes:
        if is_flat:
            widen(source, matrix.storage, to, rows * s.classes)
        elif matrix.class_stride == size and (size == sizeof(real) or s.classes > SPREAD_CLASSES):
            for i in range(rows):
                widen(source + i * matrix.row_stride, matrix.storage, to + i * s.classes, s.classes)
        elif matrix.row_stride == size == sizeof(real) and s.classes >= quad(<real> 0):
            to_rows(<const real*> source, matrix.class_stride // size, rows, s.classes, <char*> to, s.classes * size)
        else:
            gather(s, matrix, row, rows, size, <char*> stage)
            widen(<const char*> stage, matrix.storage, to, rows * s.classes)
        return
    if matrix.row_stride == size and s.classes > 1:
        widen_classes(s, source, matrix.class_stride, matrix.storage, rows, to)
    elif is_flat and s.classes <= most_interleaved:
        if size == sizeof(real):
            # In place, except for the last rows, after which there may be no memory. In the stage, what
            # follows them is uninitialised; it goes to places after the last row, as below.
            whole = rows - rows % lanes(<real> 0)
            rows_to_classes(<const real*> source, whole, s.classes, to, s.class_apart)
            memcpy(stage, source + whole * s.classes * size, (rows - whole) * s.classes * size)
            rows_to_classes(<const real*> stage, rows - whole, s.classes, to + whole, s.class_apart)
            return
        widen(source, matrix.storage, stage, rows * s.classes)
        rows_to_classes(<const real*> stage, rows, s.classes, to, s.class_apart)
    elif matrix.class_stride == size == sizeof(real) and s.classes >= quad(<real> 0):
        from_rows(source, matrix.row_stride, rows, s.classes, to, s.class_apart)
    elif is_flat and s.classes >= quad(<real> 0):
        widen(source, matrix.storage, stage, rows * s.classes)
        from_rows(<const char*> stage, s.classes * sizeof(real), rows, s.classes, to, s.class_apart)
    elif matrix.storage == native_storage(<real> 0):
        for i in range(s.classes):
            copy_strided(source + i * matrix.class_stride, matrix.row_stride, <char*> (to + i * s.class_apart), size,
                         size, rows)
    else:
        gather(s, matrix, row, rows, size, <char*> stage)
        widen_classes(s, <const char*> stage, rows * size, matrix.storage, rows, to)


cdef void empty_scratch(const Scratch* s, const real* source, const Matrix* matrix, Py_ssize_t row,
                        Py_ssize_t rows) noexcept nogil:
    # The reverse of fill_scratch.
    cdef char* to = row_address(matrix, row)
    cdef Py_ssize_t size = storage_size(matrix.storage), i
    cdef char* stage = <char*> s.stage
    cdef bint is_flat = (matrix.class_stride == size and matrix.row_stride == s.classes * size)
    if s.by_classes and matrix.row_stride == size and s.classes > 1:
        if matrix.class_stride == rows * size and s.class_apart == rows:
            narrow(source, to, matrix.storage, rows * s.classes)
            return
        for i in range(s.classes):
            narrow(source + i * s.class_apart, to + i * matrix.class_stride, matrix.storage, rows)
        return
    if s.by_classes and s.classes <= most_interleaved and is_flat:
        # What follows the last row, which may be uninitialised, follows it in the stage.
        classes_to_rows(source, s.class_apart, rows, s.classes, <real*> stage)
        source = <const real*> stage
    elif s.interleaves and matrix.class_stride == size == sizeof(real) and s.classes >= quad(<real> 0):
        to_rows(source, s.class_apart, rows, s.classes, to, matrix.row_stride)
        return
    elif s.by_classes and matrix.class_stride == size and s.classes >= quad(<real> 0):
        to_rows(source, s.class_apart, rows, s.classes, stage, s.classes * sizeof(real))
        source = <const real*> stage
    elif s.by_classes:
        for i in range(s.classes):
            narrow(source + i * s.class_apart, stage, matrix.storage, rows)
            copy_strided(stage, size, to + i * matrix.class_stride, matrix.row_stride, size, rows)
        return
    if is_flat:
        narrow(source, to, matrix.storage, rows * s.classes)
        return
    if matrix.row_stride == size == sizeof(real) and s.classes >= quad(<real> 0):
        from_rows(<const char*> source, s.classes * size, rows, s.classes, <real*> to, matrix.class_stride // size)
        return
    for i in range(rows):
        if matrix.class_stride == size:
            narrow(source + i * s.classes, to + i * matrix.row_stride, matrix.storage, s.classes)
        else:
            narrow(source + i * s.classes, stage, matrix.storage, s.classes)
            copy_strided(stage, size, to + i * matrix.row_stride, matrix.class_stride, size, s.classes)


cdef inline void copy_bytes(const char* source, Py_ssize_t apart, char* to, Py_ssize_t count) noexcept nogil:
    if apart == 1:
        memcpy(to, source, count)
    elif apart == 0:
        memset(to, source[0], count)
    else:
        copy_strided(source, apart, to, 1, 1, count)


cdef void fill_mask(const Scratch* s, const Matrix* mask, Py_ssize_t row, Py_ssize_t rows) noexcept nogil:
    # One byte per element, packed like scratch.
    cdef const char* source = row_address(mask, row)
    cdef char* to = <char*> s.mask
    cdef Py_ssize_t i
    if not s.by_classes and mask.class_stride == 1 and mask.row_stride == s.classes:
        memcpy(to, source, rows * s.classes)
        return
    for i in range(s.classes if s.by_classes else rows):
        if s.by_classes:
            copy_bytes(source + i * mask.class_stride, mask.row_stride, to + i * s.class_apart, rows)
        else:
            copy_bytes(source + i * mask.row_stride, mask.class_stride, to + i * s.classes, s.classes)


cdef Py_ssize_t side_by_side(const Matrix* matrix, Py_ssize_t row, Py_ssize_t rows) noexcept nogil:
    # How many of `rows` rows from `row` on are equally spaced.
    if matrix.data == NULL or row + rows <= matrix.inner:
        return rows
    return min_size(rows, matrix.inner - row % matrix.inner)
