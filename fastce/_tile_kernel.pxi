# Few classes, or a class axis that is not the contiguous one: the lanes of a vector run over rows.
#
# A tile is scratch that holds up to BLOCK_ROWS rows, class by class: class j of row r is at
# tile[j * BLOCK_ROWS + r]. Rows that lie contiguously are transposed into it in registers; planes,
# (N, C, H, W) with axis=1 or class-major arrays, already have that form. They are copied all the same:
# planes are often a power of two apart, so that all classes of a tile compete for the same few lines
# of the cache, and each pass over them would miss it.

cdef enum:
    TILE_BYTES = 768   # rows of up to this many bytes in the working precision are transposed into
    #                    tiles: from the cache 96 float32 classes take 0.49 ns an element then (AVX-512),
    #                    192 0.45, and 0.77 and 0.60 as rows, which take 0.51 for 256; from memory both
    #                    take 0.8 for 96 to 192. And a tile must not fill the first-level cache
    MANY_ROWS = 512    # rows of planes that are moved together: 2 KB of float32 of each class
    MANY_BYTES = 131072  # all classes of them: half of a second-level cache at most
    TILE_STRIDE = 4    # terms of a lane that are added up before they are widened: a sum of 10
    #                    terms in strides of 8 has an error of 3.1 ULP, and focal loss doubles it


cdef inline bint goes_by_tiles(const Batch* batch) noexcept nogil:
    return (batch.classes * (8 if batch.logits.storage == FLOAT64 else 4) <= TILE_BYTES
            or is_plane(&batch.logits) or is_plane(&batch.grad) or is_plane(&batch.hess)
            or is_plane(&batch.probabilities))


cdef struct TileWork:
    char* memory
    void* u       # logits, then exponentials, then gradient
    void* t       # soft target mass
    void* hess
    void* z       # logits before scale and cap, for the chain rule
    void* stage   # rows on their way to or from a tile
    Py_ssize_t ahead  # how many rows ahead logits are fetched
    Py_ssize_t logits_apart  # the bytes of one vector of rows, in as many parts as there are classes:
    Py_ssize_t grad_apart    # see fetch_class
    Py_ssize_t stop
    bint many     # the tiles of several blocks are loaded and stored together, by run_tiles


cdef inline bint tile_is_normal(const real* u, Py_ssize_t classes, Py_ssize_t rows,
                                const RowBlock* block) noexcept nogil:
    # Whether no exponential of the tile can be too small for a normal number.
    cdef vec[real] infinity = splat(<real> INFINITY), lowest = infinity, gap = splat(<real> 0), least, m
    cdef vec[real] highest = -infinity
    cdef Py_ssize_t group = 0, j
    while group < rows:
        least = infinity
        for j in range(classes):
            least = min(load(u + j * BLOCK_ROWS + group), least)
        m = load_narrowed(&block.maximum[group], <real> 0)
        gap = min(least - m, gap)
        highest = max(m, highest)  # infinity less itself is NaN, not a gap
        lowest = min(least, lowest)  # where maximum and minimum are -inf their gap is NaN
        group += lanes(<real> 0)
    return (-reduce_max(-gap) >= smallest_normal_raised_exp(<real> 0)
            and -reduce_max(-lowest) > -INFINITY and reduce_max(highest) < INFINITY)


cdef inline void look_ahead_of_group(const Batch* batch, Py_ssize_t row, Py_ssize_t group,
                                     const TileWork* work, const void* here, Ahead* ahead) noexcept nogil:
    # The lines of a vector of rows that a later tile will read, and that this one will write. Where there is
    # nothing to fetch, a line that is there already: no test for each class.
    ahead.logits = ahead.grad = <const char*> here
    ahead.logits_size = ahead.grad_size = 0
    if row + work.ahead < work.stop and not is_plane(&batch.logits):
        ahead.logits = row_address(&batch.logits, row + work.ahead) + group * batch.logits.row_stride
        ahead.logits_size = work.logits_apart
    if batch.grad.data != NULL and not is_plane(&batch.grad):
        ahead.grad = row_address(&batch.grad, row) + group * batch.grad.row_stride
        ahead.grad_size = work.grad_apart


cdef void tile_exponentials(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, const RowBlock* block,
                            const TileWork* work, const real* u, real* e, sizes size) noexcept nogil:
    # Raised ones, relative to each row's maximum; e may be u. In a loop of their own: what is asked of them
    # beside that, in the same loop, doubled its time (10 classes with AVX2: 16 cycles for 8 lanes). It is the
    # longest loop, and so the one in which to fetch (65536 x 100 with AVX2: 0.98 ns an element, 1.20 where
    # the sums are, 1.41 without).
    cdef vec[real] zero = splat(<real> 0), raised_one = splat(<real> (1.0 / lowering(<real> 0))), m, x, y
    cdef Ahead ahead
    cdef Py_ssize_t group = 0, j
    while group < rows:
        look_ahead_of_group(batch, row, group, work, e, &ahead)
        m = load_narrowed(&block.maximum[group], <real> 0)
        m = select(equal(m, splat(<real> -INFINITY)), zero, m)
        for j in range(batch.classes):
            fetch_class(&ahead, j)
            x = load(u + j * BLOCK_ROWS + group)
            y = sized_exp(x, m, size)
            if sizes is AnySize:
                y = select(equal(x, m), raised_one, y)  # infinity less itself is NaN
            store(e + j * BLOCK_ROWS + group, y)
        group += lanes(<real> 0)


cdef inline void add_class(const real* e, vec[real]* tail, vec[real]* ties) noexcept nogil:
    # A class of one vector of rows: ones are counted, what is below them is added to the tail.
    cdef vec[real] y = load(e)
    cdef mask[real] is_one = equal(y, splat(<real> (1.0 / lowering(<real> 0))))
    tail[0] = add_unless(is_one, tail[0], y)
    ties[0] = add_where(is_one, ties[0], splat(<real> 1))


cdef inline void tile_sum(const real* e, Py_ssize_t classes, RowBlock* block,
                          Py_ssize_t group) noexcept nogil:
    # The sum of the exponentials less one for a maximum, as `exponentials` has it, for one vector of rows.
    cdef vec[real] zero = splat(<real> 0), even, odd, ties = zero
    cdef wide_sum[real] total
    cdef wide_vec[real] sums, tied
    cdef vec[double] lower = splat(lowering(<real> 0)), one = splat(1.0)
    cdef Py_ssize_t j = 0
    cdef int k
    while j + TILE_STRIDE <= classes:
        even = odd = zero
        for k in range(0, TILE_STRIDE, 2):  # a constant: no branch within the stride
            add_class(e + (j + k) * BLOCK_ROWS, &even, &ties)
            add_class(e + (j + k + 1) * BLOCK_ROWS, &odd, &ties)
        total.add(even + odd)
        j += TILE_STRIDE
    if j < classes:
        even = zero
        while j < classes:
            add_class(e + j * BLOCK_ROWS, &even, &ties)
            j += 1
        total.add(even)
    sums = total.lanes()
    tied = widen_lanes(ties)
    for k in range(tied.parts):
        store(&block.others[group + k * lanes(<double> 0)], (tied.part[k] - one) + sums.part[k] * lower)


cdef void tile_sums(const real* e, Py_ssize_t classes, Py_ssize_t rows, RowBlock* block) noexcept nogil:
    cdef Py_ssize_t group = 0
    while group < rows:
        tile_sum(e + group, classes, block, group)
        group += lanes(<real> 0)


cdef void tile_targets(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, RowBlock* block,
                       real* t, real* stage) noexcept nogil:
    # Soft target mass of every row of the tile: see target_chunk.
    cdef const char* mask
    cdef double share
    cdef real rest = <real> (1.0 - batch.label_smoothing), weight, given
    cdef Py_ssize_t i, j
    cdef bint masked = batch.mask.data != NULL
    cdef double unused[BLOCK_ROWS]
    if batch.probabilities.data != NULL:
        load_tile(&batch.probabilities, row, rows, batch.classes, t, stage, &unused[0])
    else:
        memset(t, 0, batch.classes * BLOCK_ROWS * sizeof(real))
    if batch.label_smoothing == 0.0 and batch.class_weight == NULL and not masked:
        return
    share = smoothing_share(batch, row)
    for i in range(rows):
        if masked:
            share = smoothing_share(batch, row + i)
            mask = row_address(&batch.mask, row + i)
        for j in range(batch.classes):
            weight = <real> batch.class_weight[j] if batch.class_weight else 1
            given = rest * t[j * BLOCK_ROWS + i]
            if not masked or mask[j * batch.mask.class_stride]:
                given += <real> share
            t[j * BLOCK_ROWS + i] = weight * given


cdef inline void tile_soft_sums(const Batch* batch, const real* u, const real* t,
                                bint shared, Py_ssize_t group, RowBlock* block) noexcept nogil:
    cdef vec[real] zero = splat(<real> 0), t_j, masses, distances
    cdef vec[real] m = load_narrowed(&block.maximum[group], <real> 0)
    cdef wide_sum[real] all_masses, all_distances
    cdef Py_ssize_t j = 0, stop
    m = select(less(abs(m), splat(<real> INFINITY)), m, zero)
    while j < batch.classes:
        stop = min_size(batch.classes, j + TILE_STRIDE)
        masses = zero
        distances = zero
        while j < stop:
            t_j = splat(t[j]) if shared else load(t + j * BLOCK_ROWS)
            masses = masses + t_j
            distances = distances + soft_distance_of(t_j, load(u + j * BLOCK_ROWS), m)
            j += 1
        all_masses.add(masses)
        all_distances.add(distances)
    store_wide(&block.soft_mass[group], all_masses.lanes())
    store_wide(&block.soft_distance[group], all_distances.lanes())


cdef inline bint plain_factors(const RowBlock* block, Py_ssize_t rows, double chain, double* factors,
                               double* firsts, real tag) noexcept nogil:
    # What turns exponentials into the gradient of a class that has no soft target mass. It lowers raised
    # exponentials too, unless it would be subnormal then: such rows, if True is returned, are to be
    # multiplied by `firsts` before, which is 1 for all others.
    cdef vec[double] zero = splat(0.0), one = splat(1.0), smallest = splat(smallest_lowering(tag))
    cdef vec[double] lower = splat(lowering(tag)), factor, size
    cdef mask[double] tiny
    cdef Py_ssize_t i = 0
    cdef bint lower_first = False
    while i < rows or i % lanes(tag):  # whole vectors of both types
        factor = load(&block.scale[i]) * load(&block.pull[i]) * splat(chain)
        size = abs(factor)
        tiny = less(zero, size) & less(size, smallest)
        lower_first |= any(tiny)
        store(firsts + i, select(tiny, lower, one))
        store(factors + i, select(tiny, factor, factor * lower))
        i += lanes(<double> 0)
    return lower_first


cdef inline void tile_multiply(real* tile, Py_ssize_t classes, vec[real] factor) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(classes):
        store(tile + j * BLOCK_ROWS, load(tile + j * BLOCK_ROWS) * factor)


cdef inline void tile_gradient(const Batch* batch, const RowBlock* block, Py_ssize_t group, real* e,
                               const real* t, bint shared, const double* firsts,
                               const double* factors, real* hess) noexcept nogil:
    # One vector of rows: raised exponentials become gradients in place. Plain ones are multiplied by
    # `firsts` and `factors`, if there are such.
    cdef double chain = batch.logit_scale if batch.softcap == 0.0 else 1.0
    cdef vec[real] others = load_narrowed(&block.others[group], <real> 0)
    cdef vec[real] pull = load_narrowed(&block.pull[group], <real> 0)
    cdef vec[real] by_chain = splat(<real> chain), lower = splat(<real> lowering(<real> 0))
    cdef vec[real] scale = load_narrowed(&block.scale[group], <real> 0) * by_chain
    cdef vec[real] product, square, e_j
    cdef Py_ssize_t j
    if hess:
        product = load_narrowed(&block.hess_product[group], <real> 0) * by_chain * by_chain
        square = load_narrowed(&block.hess_square[group], <real> 0) * by_chain * by_chain
        for j in range(batch.classes):
            store(hess + j * BLOCK_ROWS, hessian(load(e + j * BLOCK_ROWS) * lower, others, product, square))
    if t:
        for j in range(batch.classes):
            e_j = load(e + j * BLOCK_ROWS) * lower
            store(e + j * BLOCK_ROWS, soft_gradient(
                e_j, splat(t[j]) if shared else load(t + j * BLOCK_ROWS), pull, others, scale))
        return
    if firsts:
        tile_multiply(e, batch.classes, load_narrowed(firsts + group, <real> 0))
    if factors:
        tile_multiply(e, batch.classes, load_narrowed(factors + group, <real> 0))


cdef inline void tile_log_softmax(const RowBlock* block, Py_ssize_t group, real* u,
                                  Py_ssize_t classes) noexcept nogil:
    # One vector of rows of (u - m) - log1p(others), in place.
    cdef vec[real] m = load_narrowed(&block.maximum[group], <real> 0)
    cdef vec[real] log_total = load_narrowed(&block.pull[group], <real> 0)
    cdef Py_ssize_t j
    for j in range(classes):
        store(u + j * BLOCK_ROWS, (load(u + j * BLOCK_ROWS) - m) - log_total)


cdef inline void clear_unused(const RowBlock* block, Py_ssize_t group, real* tile,
                              Py_ssize_t classes) noexcept nogil:
    # Zero logits for rows that are not used: their own may be NaN.
    cdef double used[BLOCK_ROWS]
    cdef int k, width = lanes(<real> 0)
    cdef Py_ssize_t j
    cdef mask[real] active
    for k in range(width):
        used[k] = block.active[group + k]
    active = less(splat(<real> 0), load_narrowed(&used[0], <real> 0))
    for j in range(classes):
        store(tile + j * BLOCK_ROWS, keep(active, load(tile + j * BLOCK_ROWS)))


cdef void tile_logits(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, RowBlock* block,
                      TileWork* work, real* u) noexcept nogil:
    # The scratch tile of u and its maxima: loaded, cleared where a row is not used, scaled, capped,
    # masked.
    cdef Py_ssize_t group, i, j
    cdef const char* row_mask
    cdef real* z = NULL
    if not work.many:
        load_tile(&batch.logits, row, rows, batch.classes, u, <real*> work.stage, &block.maximum[0])
    if not block.all_active:
        group = 0
        while group < rows:
            clear_unused(block, group, u + group, batch.classes)
            group += lanes(<real> 0)
    if batch.softcap != 0.0:
        memcpy(work.z, u, batch.classes * BLOCK_ROWS * sizeof(real))
        z = <real*> work.z
    if batch.logit_scale != 1.0 or batch.softcap != 0.0:
        transform(u, batch.classes * BLOCK_ROWS, batch.logit_scale, batch.softcap)
    if batch.mask.data != NULL:
        for i in range(rows):
            row_mask = row_address(&batch.mask, row + i)
            for j in range(batch.classes):
                if block.active[i] and not row_mask[j * batch.mask.class_stride]:
                    u[j * BLOCK_ROWS + i] = -INFINITY
                    if z:
                        z[j * BLOCK_ROWS + i] = 0  # it may be NaN
    if work.many or not block.all_active or not is_plain(batch):
        group = 0
        while group < rows:
            tile_maximum(<const real*> u + group, batch.classes, &block.maximum[group])
            group += lanes(<real> 0)


cdef inline void narrow_rows(const double* numbers, Py_ssize_t rows, double factor, real* to) noexcept nogil:
    # Numbers of rows, times the factor, in the working precision.
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
    # A number of each row where its label is.
    cdef Py_ssize_t i
    for i in range(rows):
        if block.label[i] >= 0:
            write(<real*> (to + block.label[i] * class_stride), read(numbers + i))
        to += row_stride


cdef void tile_derivatives(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, RowBlock* block,
                           TileWork* work, real* e, const real* t, bint shared) noexcept nogil:
    # Raised exponentials become gradients in place, Hessians go to their own tile; then to memory.
    cdef double chain = batch.logit_scale if batch.softcap == 0.0 else 1.0
    cdef bint wants_hess = batch.hess.data != NULL
    cdef real* hess = <real*> work.hess if wants_hess else NULL
    cdef double factors[BLOCK_ROWS]
    cdef double firsts[BLOCK_ROWS]
    cdef const double* in_tile = NULL
    cdef const double* in_tile_first = NULL
    cdef real at_target[BLOCK_ROWS]
    cdef real* hess_group = hess
    cdef const real* t_group = t
    cdef Py_ssize_t group, i
    cdef int width = lanes(<real> 0)
    cdef bint cleared = batch.mask.data != NULL and t != NULL
    if batch.mask.data != NULL:
        for i in range(rows):
            cleared |= has_no_softmax(block, i)
            if block.label[i] >= 0:
                forget_masked_target(batch, row + i, block, i)
    # The plain gradient of rows is multiplied on its way out, and its targets replaced in memory.
    cdef bint on_the_way = (t == NULL and not cleared and batch.softcap == 0.0 and block.all_active
                            and batch.grad.storage <= FLOAT64 and not is_plane(&batch.grad))
    if plain_factors(block, rows, chain, &factors[0], &firsts[0], <real> 0):
        in_tile_first = &firsts[0]
    if not on_the_way:
        in_tile = &factors[0]
    group = 0
    while group < rows:
        tile_gradient(batch, block, group, e + group, t_group, shared, in_tile_first, in_tile, hess_group)
        if t_group != NULL and not shared:
            t_group += width
        if hess_group != NULL:
            hess_group += width
        group += width
    narrow_rows(&block.at_target[0], rows, chain, &at_target[0])
    if on_the_way:
        store_tile(<const real*> e, &batch.grad, row, rows, batch.classes, <real*> work.stage, &factors[0])
        put_at_labels(block, rows, &at_target[0], row_address(&batch.grad, row), sizeof(real),
                      batch.grad.row_stride)
    else:
        put_at_labels(block, rows, &at_target[0], <char*> e, BLOCK_ROWS * sizeof(real), sizeof(real))
    if wants_hess:
        narrow_rows(&block.hess_at_target[0], rows, chain * chain, &at_target[0])
        put_at_labels(block, rows, &at_target[0], <char*> hess, BLOCK_ROWS * sizeof(real), sizeof(real))
    if cleared:
        for i in range(rows):
            clear_masked(batch, row + i, 0, batch.classes, e + i, BLOCK_ROWS)
            if wants_hess:
                clear_masked(batch, row + i, 0, batch.classes, hess + i, BLOCK_ROWS)
    if batch.softcap != 0.0:
        chain_rule(<real*> work.z, batch.classes * BLOCK_ROWS, batch.logit_scale, batch.softcap, e, hess)
    if not block.all_active:  # 0 * factor is -0.0 where the factor is negative
        group = 0
        while group < rows:
            clear_unused(block, group, e + group, batch.classes)
            if wants_hess:
                clear_unused(block, group, hess + group, batch.classes)
            group += width
    if not on_the_way and not work.many:
        store_tile(<const real*> e, &batch.grad, row, rows, batch.classes, <real*> work.stage, NULL)
    if wants_hess:
        store_tile(<const real*> hess, &batch.hess, row, rows, batch.classes, <real*> work.stage, NULL)


cdef inline void fetch_planes(const Matrix* matrix, Py_ssize_t row, Py_ssize_t classes,
                              bint to_write) noexcept nogil:
    # BLOCK_ROWS of each class.
    cdef const char* at = row_address(matrix, row)
    cdef Py_ssize_t j
    for j in range(classes):
        fetch_range(at, storage_size(matrix.storage), 0, BLOCK_ROWS, to_write)
        at += matrix.class_stride


cdef int run_tile(const Batch* batch, Py_ssize_t row, Py_ssize_t rows, RowBlock* block,
                  TileWork* work, real tag) noexcept nogil:
    cdef Py_ssize_t classes = batch.classes, group, i, j, label
    cdef int width = lanes(tag)
    cdef bint soft = is_soft(batch), wants_grad = batch.grad.data != NULL
    cdef bint shared = soft and batch.probabilities.data == NULL and batch.mask.data == NULL
    cdef bint logs = batch.kind == LOG_SOFTMAX
    cdef real* u = <real*> work.u
    cdef real* e = u  # where exponentials go: in the place of the logits, if these are not wanted again
    cdef real* t = NULL
    cdef AllNormal all_normal
    cdef AnySize any_size
    cdef int status = begin_rows(batch, row, rows, block)
    if status != OK:
        return status
    for i in range(rows, BLOCK_ROWS):
        block.active[i] = block.untouched = False
    if row + work.ahead < work.stop and is_plane(&batch.logits):
        fetch_planes(&batch.logits, row + work.ahead, classes, False)
    if wants_grad and is_plane(&batch.grad):
        fetch_planes(&batch.grad, row, classes, True)
    tile_logits(batch, row, rows, block, work, u)
    if shared:
        t = <real*> batch.soft_weight
    elif soft:
        t = <real*> work.t
        tile_targets(batch, row, rows, block, t, <real*> work.stage)
        if not block.all_active:
            group = 0
            while group < rows:
                clear_unused(block, group, t + group, classes)
                group += width
    for i in range(rows):
        label = block.label[i]
        if label >= 0:
            block.target_logit[i] = read(u + label * BLOCK_ROWS + i)
    if soft:
        for i in range(rows):
            label = block.label[i]
            if label >= 0:
                block.soft_at_target[i] = t[label] if shared else t[label * BLOCK_ROWS + i]
    if logs:
        e = <real*> work.t
    group = 0
    while group < rows:
        if soft:
            tile_soft_sums(batch, u + group, t if shared else t + group, shared, group, block)
        if batch.argmax:
            for i in range(group, min_size(group + width, rows)):
                j = 0
                while j < classes - 1 and read(u + j * BLOCK_ROWS + i) < <real> block.maximum[i]:
                    j += 1
                write(batch.argmax + row + i, <long long> j)
        group += width
    if tile_is_normal(u, classes, rows, block):
        tile_exponentials(batch, row, rows, block, work, u, e, all_normal)
    else:
        tile_exponentials(batch, row, rows, block, work, u, e, any_size)
    if wants_grad or batch.kind == FOCAL:
        # Before the sums: what is stored lane by lane and loaded as a vector right behind it waits until all
        # before it is done.
        for i in range(rows):
            label = block.label[i]
            if label >= 0:
                block.target_exp[i] = read(e + label * BLOCK_ROWS + i) * lowering(tag)
    tile_sums(e, classes, rows, block)
    finish_rows(batch, block, rows, NULL, True, wants_grad)
    if logs:
        group = 0
        while group < rows:
            tile_log_softmax(block, group, u + group, classes)
            group += width
        if not work.many:
            store_tile(<const real*> u, &batch.grad, row, rows, classes, <real*> work.stage, NULL)
    elif wants_grad:
        tile_derivatives(batch, row, rows, block, work, u, t, shared)
    return OK


cdef int run_tiles(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, real tag,
                   double* total) noexcept nogil:
    # Rows [start, stop) of a batch of few classes, or of planes.
    cdef RowBlock block
    cdef TileWork work
    cdef Py_ssize_t row = start, rows
    cdef Py_ssize_t padded = ((batch.classes if batch.classes > 16 else 16) * BLOCK_ROWS + 16) * sizeof(real)
    cdef int status = OK
    begin_batch(batch, &block)
    cdef Py_ssize_t tile_size = batch.classes * BLOCK_ROWS * sizeof(real)
    cdef Py_ssize_t tiles = 1, together, done
    cdef char* u
    if (is_plane(&batch.logits) and (batch.grad.data == NULL or is_plane(&batch.grad))
            and batch.logits.inner >= MANY_ROWS):
        tiles = MANY_ROWS // BLOCK_ROWS
        while tiles > 1 and tiles * tile_size > MANY_BYTES:
            tiles //= 2
    work.memory = <char*> malloc(4 * padded + tiles * tile_size + padded)
    if work.memory == NULL:
        return NO_MEMORY
    work.stop = stop
    work.ahead = tiles * BLOCK_ROWS
    if tiles == 1 and work.ahead * batch.classes < CHUNK:
        work.ahead = CHUNK // (batch.classes + 1) // BLOCK_ROWS * BLOCK_ROWS + BLOCK_ROWS
    if batch.classes:
        work.logits_apart = lanes(tag) * batch.logits.row_stride // batch.classes
        work.grad_apart = lanes(tag) * batch.grad.row_stride // batch.classes
    work.stage = work.memory
    work.t = work.memory + padded
    work.hess = work.memory + 2 * padded
    work.z = work.memory + 3 * padded
    u = work.memory + 4 * padded
    while row < stop and status == OK:
        # Planes are read and written in runs of up to MANY_ROWS: from 128 bytes of each of so many
        # places memory comes at a fraction of its speed ((8, 21, 256, 256): 3.3 ns an element).
        together = tiles * BLOCK_ROWS
        together = side_by_side(&batch.logits, row, min_size(together, stop - row))
        together = side_by_side(&batch.grad, row, together)
        together = side_by_side(&batch.hess, row, together)
        together = side_by_side(&batch.probabilities, row, together)
        work.many = tiles > 1
        if work.many:
            move_planes(&batch.logits, row, together, batch.classes, <real*> u, False)
        done = 0
        while done < together and status == OK:
            rows = min_size(BLOCK_ROWS, together - done)
            work.u = u + (done // BLOCK_ROWS) * tile_size if work.many else u
            status = run_tile(batch, row + done, rows, &block, &work, tag)
            if status == OK:
                end_rows(batch, row + done, rows, &block, False, tag, total)
            done += rows
        if work.many and batch.grad.data != NULL and status == OK:
            move_planes(&batch.grad, row, together, batch.classes, <real*> u, True)
        row += together
    free(work.memory)
    return status
