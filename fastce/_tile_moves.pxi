# Rows and planes on their way into tiles and out of them: see _tile_kernel.pxi for what a tile is.


cdef inline void transpose_in(const char* source, Py_ssize_t row_stride, Py_ssize_t rows,
                              Py_ssize_t classes, real* tile, double* maximum) noexcept nogil:
    # Rows of at least one quad into a tile, and their maxima, while they are in registers. The last
    # quad of classes overlaps the one before it; missing rows repeat the last one. Where there are
    # fewer classes than that, what lies behind them is not taken.
    cdef int width = lanes(<real> 0), step = quad(<real> 0), k
    cdef int inside = <int> min_size(step, classes)
    cdef vec[real] block[4]
    cdef vec[real] m
    cdef Py_ssize_t group = 0, first
    while group < rows:
        first = 0
        m = splat(<real> -INFINITY)
        while True:
            load_columns(source + group * row_stride + first * sizeof(real), row_stride,
                         rows - 1 - group, &block[0])
            for k in range(inside):
                m = max(block[k], m)
                store(tile + (first + k) * BLOCK_ROWS + group, block[k])
            if first + step >= classes:
                break
            first = min_size(first + step, classes - step)
        store_widened(maximum + group, m)
        group += width


cdef inline void transpose_out(const real* tile, Py_ssize_t rows, Py_ssize_t classes, char* to,
                               Py_ssize_t row_stride, const double* factors) noexcept nogil:
    # The other way; each row is multiplied by its factor, if there are such.
    cdef int width = lanes(<real> 0), step = quad(<real> 0), k
    cdef vec[real] block[4]
    cdef vec[real] factor = splat(<real> 1)
    cdef Py_ssize_t group = 0, first
    while group < rows:
        first = 0
        if factors:
            factor = load_narrowed(factors + group, <real> 0)
        while True:
            for k in range(step):
                block[k] = load(tile + (first + k) * BLOCK_ROWS + group) * factor
            store_columns(to + group * row_stride + first * sizeof(real), row_stride, rows - 1 - group,
                          &block[0])
            if first + step >= classes:
                break
            first = min_size(first + step, classes - step)
        group += width


cdef inline void tile_maximum(const real* u, Py_ssize_t classes, double* maximum) noexcept nogil:
    cdef vec[real] m = splat(<real> -INFINITY)
    cdef Py_ssize_t j
    for j in range(classes):
        m = max(load(u + j * BLOCK_ROWS), m)
    store_widened(maximum, m)


cdef void load_tile(const Matrix* matrix, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t classes,
                    real* tile, real* stage, double* maximum) noexcept nogil:
    # Converts if need be. The lanes past `rows` hold what some row holds.
    cdef char* source = row_address(matrix, row)
    cdef Py_ssize_t size = storage_size(matrix.storage), i, j
    cdef int width = lanes(<real> 0)
    if is_plane(matrix):
        for j in range(classes):
            widen(source + j * matrix.class_stride, matrix.storage, tile + j * BLOCK_ROWS, rows)
            for i in range(rows, BLOCK_ROWS):
                tile[j * BLOCK_ROWS + i] = tile[j * BLOCK_ROWS]
        i = 0
        while i < rows:
            tile_maximum(<const real*> tile + i, classes, maximum + i)
            i += width
        return
    if matrix.storage <= FLOAT64 and classes >= quad(<real> 0):
        transpose_in(source, matrix.row_stride, rows, classes, tile, maximum)
        return
    # Rows narrower than a quad, or of another type, are first laid side by side; a vector may then
    # read past its row, into the next one or the padding.
    if matrix.row_stride == classes * size:
        widen(source, matrix.storage, stage, rows * classes)
    else:
        for i in range(rows):
            widen(source + i * matrix.row_stride, matrix.storage, stage + i * classes, classes)
    for i in range(rows * classes, rows * classes + width):
        stage[i] = 0
    transpose_in(<const char*> stage, classes * sizeof(real), rows, classes, tile, maximum)


cdef void store_tile(const real* tile, const Matrix* matrix, Py_ssize_t row, Py_ssize_t rows,
                     Py_ssize_t classes, real* stage, const double* factors) noexcept nogil:
    # `factors` are for rows alone: planes are multiplied in the tile.
    cdef char* to = row_address(matrix, row)
    cdef Py_ssize_t size = storage_size(matrix.storage), i, j, apart
    cdef int width = lanes(<real> 0)
    if is_plane(matrix):
        for j in range(classes):
            narrow(tile + j * BLOCK_ROWS, to + j * matrix.class_stride, matrix.storage, rows)
        return
    if matrix.storage <= FLOAT64 and classes >= quad(<real> 0):
        transpose_out(tile, rows, classes, to, matrix.row_stride, factors)
        return
    # Rows narrower than a quad are stored a quad apart, then moved together.
    apart = classes if classes > quad(<real> 0) else quad(<real> 0)
    transpose_out(tile, rows, apart, <char*> stage, apart * sizeof(real), factors)
    if classes < apart:
        for i in range(rows):
            for j in range(classes):
                stage[i * classes + j] = stage[i * apart + j]
    if matrix.row_stride == classes * size:
        narrow(stage, to, matrix.storage, rows * classes)
    else:
        for i in range(rows):
            narrow(stage + i * classes, to + i * matrix.row_stride, matrix.storage, classes)


cdef void move_planes(const Matrix* matrix, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t classes,
                      real* tiles, bint out) noexcept nogil:
    # Several tiles, one behind another, from planes or to them: all of a plane's rows at once.
    cdef Py_ssize_t size = storage_size(matrix.storage), i, j, count
    cdef char* plane = row_address(matrix, row)
    cdef real* tile
    for j in range(classes):
        i = 0
        tile = tiles + j * BLOCK_ROWS
        while i < rows:
            count = min_size(BLOCK_ROWS, rows - i)
            if out:
                narrow(<const real*> tile, plane + i * size, matrix.storage, count)
            else:
                widen(plane + i * size, matrix.storage, tile, count)
            i += count
            tile += classes * BLOCK_ROWS
        plane += matrix.class_stride
    if not out:
        for i in range(rows, (rows + BLOCK_ROWS - 1) // BLOCK_ROWS * BLOCK_ROWS):  # lanes past the end
            for j in range(classes):
                tiles[(i // BLOCK_ROWS) * classes * BLOCK_ROWS + j * BLOCK_ROWS + i % BLOCK_ROWS] = 0


cdef inline Py_ssize_t side_by_side(const Matrix* matrix, Py_ssize_t row, Py_ssize_t rows) noexcept nogil:
    # How many of `rows` rows from `row` on lie at one distance from each other.
    if matrix.data == NULL or row + rows <= matrix.inner:
        return rows
    return min_size(rows, matrix.inner - row % matrix.inner)
