# What the softmax kernels share: where a batch lies, its labels, and the numbers kept for each row.

ctypedef fused real:
    float
    double

cdef enum:
    FLOAT32 = 0
    FLOAT64 = 1
    FLOAT16 = 2
    BFLOAT16 = 3

cdef enum:  # what a kernel reports; the caller turns it into an exception
    OK = 0
    BAD_LABEL = 1
    NO_MEMORY = 2
    OUT_OF_RANGE = 3  # of the precision that was to be computed in

cdef enum:  # which loss of the softmax family
    CROSS_ENTROPY = 0
    FOCAL = 1
    LOG_SUM_EXP = 2  # its gradient is softmax
    LOG_SOFTMAX = 3  # written where the others write a gradient

# Rows whose scalars are finished together. 64 rows fill the vectors of every instruction set several times,
# so that one vector's logarithm does not wait for the other's (10 classes with AVX-512: 12.5 ns a row by 32,
# 11.9 by 64, 11.4 by 128), and keep their scalars (9 KB) and some 90 float32 classes in a 32 KB
# first-level cache: 100 classes take 0.56 ns an element by 32, 0.55 by 64, 0.60 by 128.
cdef enum:
    BLOCK_ROWS = 64


cdef struct Matrix:
    # A rows x classes array as it lies in memory. Row r starts at
    # data + (r // inner) * outer_stride + (r % inner) * row_stride; all strides are in bytes.
    char* data
    int storage
    Py_ssize_t class_stride
    Py_ssize_t row_stride
    Py_ssize_t inner
    Py_ssize_t outer_stride


cdef struct Labels:
    char* data
    int itemsize
    bint unsigned
    bint ignores
    Py_ssize_t stride
    long long ignore_index


cdef struct Scalars:
    # One floating number a row, or none.
    char* data
    int storage
    Py_ssize_t stride


cdef struct Batch:
    # What the loss is ...
    int kind
    double label_smoothing
    double z_loss
    double gamma
    double logit_scale
    double softcap            # 0: none
    const double* class_weight  # weight or alpha, NULL for ones
    const void* soft_weight   # label_smoothing / K * weight in the working precision, or NULL
    # ... and what this batch is.
    Py_ssize_t classes
    Matrix logits
    Labels labels             # data NULL: none
    Matrix probabilities      # data NULL: none
    Matrix mask               # bytes; data NULL: none
    Scalars sample_weight
    Scalars grad_output
    double scale              # of every gradient: grad_output / denominator
    Matrix grad               # data NULL: not wanted
    Matrix hess
    char* loss                # one number a row in the working precision, or NULL
    char* log_sum_exp
    long long* argmax
    double* maximum           # of RowBlock, or NULL: what is known of a row before it is finished
    double* others
    double* target_logit
    double* soft_distance


cdef struct RowBlock:
    # Row statistics, in double: u is the logit after scale and cap, m its maximum over the row.
    double maximum[BLOCK_ROWS]
    double others[BLOCK_ROWS]         # sum of exp(u_j - m) over all j but one maximum
    double target_logit[BLOCK_ROWS]
    double target_exp[BLOCK_ROWS]     # exp(u_y - m)
    double hard_mass[BLOCK_ROWS]      # target mass on the label alone
    double soft_mass[BLOCK_ROWS]      # sum of the target mass t_c that every class has
    double soft_at_target[BLOCK_ROWS]  # t_y
    double soft_distance[BLOCK_ROWS]  # sum of t_c (m - u_c)
    double weight[BLOCK_ROWS]         # of the loss
    double factor[BLOCK_ROWS]         # of the gradient
    # What the formulas make of them (see _formulas.pxi).
    double value[BLOCK_ROWS]
    double log_sum_exp[BLOCK_ROWS]
    double softmax_coefficient[BLOCK_ROWS]
    double row_scale[BLOCK_ROWS]
    double grad_at_label[BLOCK_ROWS]
    double hess_product[BLOCK_ROWS]
    double hess_square[BLOCK_ROWS]
    double hess_at_label[BLOCK_ROWS]
    long long label[BLOCK_ROWS]       # -1: none, or the row is not used
    bint active[BLOCK_ROWS]
    bint all_active
    bint untouched                    # whether weight, factor and active are as begin_batch set them


cdef inline int native_storage(real tag) noexcept nogil:
    return FLOAT64 if sizeof(real) == 8 else FLOAT32


cdef inline Py_ssize_t storage_size(int storage) noexcept nogil:
    return 8 if storage == FLOAT64 else 4 if storage == FLOAT32 else 2


cdef inline bint is_row(const Matrix* matrix) noexcept nogil:
    return matrix.data == NULL or matrix.class_stride == storage_size(matrix.storage)


cdef inline bint is_plane(const Matrix* matrix) noexcept nogil:
    # Neighbouring rows are contiguous, the classes are not.
    return (matrix.data != NULL and matrix.class_stride != storage_size(matrix.storage)
            and matrix.row_stride == storage_size(matrix.storage))


cdef inline char* row_address(const Matrix* matrix, Py_ssize_t row) noexcept nogil:
    if matrix.inner > row:
        return matrix.data + row * matrix.row_stride
    return (matrix.data + (row // matrix.inner) * matrix.outer_stride
            + (row % matrix.inner) * matrix.row_stride)


cdef struct Ahead:
    # Where elements lie that a later step will read or write; they are fetched while this step
    # calculates. For rows NULL is none, for tiles a line that is there already. Tiles go to and fro
    # between many rows, more than the processor's own prefetchers follow (65536 x 100 with AVX-512:
    # 0.75 ns an element with this, 1.48 without).
    const char* logits
    const char* target
    const char* grad
    Py_ssize_t logits_size  # bytes an element
    Py_ssize_t target_size
    Py_ssize_t grad_size


cdef inline void fetch_range(const char* at, Py_ssize_t size, Py_ssize_t first, Py_ssize_t stop,
                             bint to_write) noexcept nogil:
    cdef const char* line = at + first * size
    if at == NULL:
        return
    while line < at + stop * size:
        if to_write:
            fetch_to_write(line)
        else:
            fetch(line)
        line += cache_line


cdef inline void fetch_elements(const Ahead* ahead, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    fetch_range(ahead.logits, ahead.logits_size, first, stop, False)
    fetch_range(ahead.target, ahead.target_size, first, stop, False)


cdef inline void fetch_class(const Ahead* ahead, Py_ssize_t j) noexcept nogil:
    # One line of each, in tiles.
    fetch(ahead.logits + j * ahead.logits_size)
    fetch_to_write(ahead.grad + j * ahead.grad_size)


cdef inline bint is_soft(const Batch* batch) noexcept nogil:
    return batch.soft_weight != NULL or batch.probabilities.data != NULL


cdef inline int read_label(const Labels* labels, Py_ssize_t row, Py_ssize_t classes,
                           long long* label) noexcept nogil:
    # Loads a label once, and judges the value that was loaded: another thread may change the array
    # meanwhile, and must not be able to make the kernel write out of bounds.
    # Sets -1 for an ignored row.
    cdef const char* at = labels.data + row * labels.stride
    cdef long long value
    if labels.itemsize == 8:
        value = read(<const long long*> at)
        if labels.unsigned and value < 0:  # 2**63 and more: a label of no class, ignored by no index
            return BAD_LABEL
    elif labels.itemsize == 4:
        if labels.unsigned:
            value = read(<const unsigned int*> at)
        else:
            value = read(<const int*> at)
    elif labels.itemsize == 2:
        if labels.unsigned:
            value = read(<const unsigned short*> at)
        else:
            value = read(<const short*> at)
    else:
        if labels.unsigned:
            value = read(<const unsigned char*> at)
        else:
            value = read(<const signed char*> at)
    if labels.ignores and value == labels.ignore_index:
        label[0] = -1
        return OK
    label[0] = value
    return OK if 0 <= value < classes else BAD_LABEL


cdef inline double read_scalar(const Scalars* scalars, Py_ssize_t row) noexcept nogil:
    # 1 where none are given: weighted and unweighted calls share one loop.
    cdef const char* at = scalars.data + row * scalars.stride
    if scalars.data == NULL:
        return 1.0
    return read(<const double*> at) if scalars.storage == FLOAT64 else <double> read(<const float*> at)


ctypedef fused label:
    (signed char)
    (unsigned char)
    short
    (unsigned short)
    int
    (unsigned int)
    (long long)


cdef inline void copy_labels(const label* labels, Py_ssize_t count, long long* to) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        to[i] = read(labels + i)


cdef bint take_labels(const Batch* batch, Py_ssize_t first, Py_ssize_t rows, long long* to,
                             bint* any_ignored) noexcept nogil:
    # Up to BLOCK_ROWS contiguous labels, without a branch for each; -1 for those that are ignored. False if some
    # are neither, or lie otherwise. What is copied is what is judged. The sign of each number below says whether
    # something is wrong, so that the loops run over vectors.
    cdef const char* labels = batch.labels.data + first * batch.labels.stride
    cdef long long wrong = 0, ignored = batch.labels.ignore_index, is_ignored, seen = 0
    # Unsigned differences are defined for the least integer, too, which a caller may pass.
    cdef unsigned long long last = batch.classes - 1
    cdef Py_ssize_t i
    if batch.labels.stride != batch.labels.itemsize:
        return False
    if batch.labels.itemsize == 8:
        if batch.labels.unsigned and ignored < 0:
            return take_unsigned_labels(<const long long*> labels, rows, last, to, any_ignored)
        copy_labels(<const long long*> labels, rows, to)
    elif batch.labels.itemsize == 4 and batch.labels.unsigned:
        copy_labels(<const unsigned int*> labels, rows, to)
    elif batch.labels.itemsize == 4:
        copy_labels(<const int*> labels, rows, to)
    elif batch.labels.itemsize == 2 and batch.labels.unsigned:
        copy_labels(<const unsigned short*> labels, rows, to)
    elif batch.labels.itemsize == 2:
        copy_labels(<const short*> labels, rows, to)
    elif batch.labels.unsigned:
        copy_labels(<const unsigned char*> labels, rows, to)
    else:
        copy_labels(<const signed char*> labels, rows, to)
    for i in range(rows):
        wrong |= to[i] | <long long> (last - <unsigned long long> to[i])
    any_ignored[0] = False
    if wrong >= 0 and not (batch.labels.ignores and 0 <= ignored < batch.classes):
        return True
    if not batch.labels.ignores:
        return False
    wrong = 0
    for i in range(rows):
        is_ignored = -<long long> (to[i] == ignored)
        seen |= is_ignored
        to[i] |= is_ignored
        wrong |= (to[i] | <long long> (last - <unsigned long long> to[i])) & ~is_ignored
    any_ignored[0] = seen != 0
    return wrong >= 0


cdef bint take_unsigned_labels(const long long* labels, Py_ssize_t rows, unsigned long long last,
                                      long long* to, bint* any_ignored) noexcept nogil:
    # Of 64 bits: 2^63 and more are labels of no class, and ignored by no index below 0.
    cdef long long wrong = 0
    cdef Py_ssize_t i
    copy_labels(labels, rows, to)
    for i in range(rows):
        wrong |= to[i] | <long long> (last - <unsigned long long> to[i])
    any_ignored[0] = False
    return wrong >= 0


cdef inline Py_ssize_t max_size(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a > b else b


cdef void read_scalars(const Scalars* scalars, Py_ssize_t first, Py_ssize_t rows, double* to) noexcept nogil:
    # 1 where none are given, and behind the last.
    cdef const char* at = scalars.data + first * scalars.stride
    cdef Py_ssize_t i
    if scalars.data == NULL:
        for i in range(rows):
            to[i] = 1.0
    elif scalars.storage == FLOAT64:
        for i in range(rows):
            to[i] = read(<const double*> (at + i * scalars.stride))
    else:
        for i in range(rows):
            to[i] = read(<const float*> (at + i * scalars.stride))
    for i in range(rows, (rows + 15) // 16 * 16):
        to[i] = 1.0


cdef struct WeightSum:
    double total
    bint any_counts  # whether a weight is not 0: the sum of others may be 0, too


cdef int weigh_labels(const Batch* batch, Py_ssize_t rows, WeightSum* weights,
                      Py_ssize_t* position) noexcept nogil:
    # Checks every label before anything is written, and sums the weights that the mean divides by. By
    # blocks: one label at a time took 2.2 of the 15 ns of a row of ten classes. With the rounding errors
    # beside the sum: 4 million weights of 0.1, added one by one, were 5e-11 off.
    cdef const double* class_weight = batch.class_weight if batch.kind == CROSS_ENTROPY else NULL
    cdef bint unweighted = class_weight == NULL and batch.sample_weight.data == NULL
    cdef long long labels[BLOCK_ROWS]
    cdef double weight[BLOCK_ROWS]
    cdef wide_sum[double] sum
    cdef double unweighted_rows = 0.0
    cdef vec[double] zero = splat(0.0), w
    cdef mask[double] counts = less(zero, zero)
    cdef bint any_ignored
    cdef Py_ssize_t first = 0, count, i
    while first < rows:
        count = min_size(BLOCK_ROWS, rows - first)
        if not take_labels(batch, first, count, &labels[0], &any_ignored):
            for i in range(count):
                if read_label(&batch.labels, first + i, batch.classes, &labels[i]) != OK:
                    position[0] = first + i
                    return BAD_LABEL
            any_ignored = True
        if unweighted:
            unweighted_rows += count
            for i in range(count if any_ignored else 0):
                unweighted_rows += labels[i] >> 63  # -1 for each
            first += count
            continue
        read_scalars(&batch.sample_weight, first, count, &weight[0])
        if class_weight != NULL:
            for i in range(count):
                weight[i] *= class_weight[max_size(labels[i], 0)]
        for i in range(count if any_ignored else 0):
            weight[i] = weight[i] if labels[i] >= 0 else 0.0
        for i in range(count, (count + 15) // 16 * 16):
            weight[i] = 0.0
        i = 0
        while i < count:
            w = load(<const double*> &weight[i])
            counts = counts | less(zero, abs(w))
            sum.add(w)
            i += lanes(<double> 0)
        first += count
    weights.total = unweighted_rows + sum.total()
    weights.any_counts = any(counts) or unweighted_rows > 0.0
    return OK


cdef void begin_batch(const Batch* batch, RowBlock* block) noexcept nogil:
    # What no row changes.
    cdef Py_ssize_t i
    memset(block, 0, sizeof(block[0]))
    for i in range(BLOCK_ROWS):
        block.label[i] = -1
        if batch.labels.data != NULL:
            block.hard_mass[i] = 1.0 - batch.label_smoothing
        block.weight[i] = 1.0
        block.factor[i] = batch.scale
        block.active[i] = True
    block.all_active = block.untouched = True


cdef int begin_rows(const Batch* batch, Py_ssize_t first, Py_ssize_t rows, RowBlock* block) noexcept nogil:
    # The numbers of a block of rows that do not depend on the logits.
    cdef bint any_ignored = False
    cdef bint unweighted = batch.sample_weight.data == NULL and batch.grad_output.data == NULL
    cdef vec[double] zero = splat(0.0), scale = splat(batch.scale), weight
    cdef mask[double] unused, any_unused = less(zero, zero)
    cdef double labels[BLOCK_ROWS]
    cdef Py_ssize_t i
    cdef long long label
    if batch.labels.data != NULL and not take_labels(batch, first, rows, &block.label[0], &any_ignored):
        for i in range(rows):
            if read_label(&batch.labels, first + i, batch.classes, &label) != OK:
                return BAD_LABEL
            block.label[i] = label
            any_ignored = any_ignored or label < 0
    if batch.class_weight and batch.labels.data != NULL:
        for i in range(rows):
            label = block.label[i]
            if label >= 0:
                block.hard_mass[i] = batch.class_weight[label] * (1.0 - batch.label_smoothing)
    block.all_active = True
    if not any_ignored and unweighted and block.untouched:
        return OK
    read_scalars(&batch.sample_weight, first, rows, &block.weight[0])
    read_scalars(&batch.grad_output, first, rows, &block.factor[0])
    if any_ignored:
        for i in range(rows):
            labels[i] = <double> block.label[i]
    i = 0
    while i < rows:
        weight = load(&block.weight[i])
        if any_ignored:
            weight = keep(at_most(zero, load(<const double*> &labels[i])), weight)
            store(&block.weight[i], weight)
        unused = equal(weight, zero)
        any_unused = any_unused | unused
        # Not weight * scale where nothing counts: the scale is infinite.
        store(&block.factor[i], drop(unused, weight * scale * load(&block.factor[i])))
        # Those of an earlier row may be infinite or NaN.
        store(&block.soft_at_target[i], drop(unused, load(&block.soft_at_target[i])))
        i += lanes(<double> 0)
    block.all_active = not any(any_unused)
    for i in range(rows):
        block.active[i] = block.weight[i] != 0.0
        block.label[i] = block.label[i] if block.weight[i] != 0.0 else -1
    # A short block leaves the places behind it as they were.
    block.untouched = block.all_active and unweighted and rows == BLOCK_ROWS
    return OK


cdef inline void write_rows(double* to, Py_ssize_t first, Py_ssize_t rows,
                            const double* numbers) noexcept nogil:
    if to:
        memcpy(to + first, numbers, rows * sizeof(double))


cdef void end_rows(const Batch* batch, Py_ssize_t first, Py_ssize_t rows, const RowBlock* block,
                   bint one_by_one, real precision, double* total) noexcept nogil:
    # Writes the losses of a block, or adds them up: in vectors, or so that it makes no difference where
    # a block begins.
    cdef Py_ssize_t i
    cdef double last = 0.0
    cdef vec[double] sum = splat(0.0)
    if batch.loss:
        for i in range(rows):
            write(<real*> batch.loss + first + i, <real> (block.value[i] * block.weight[i]))
    elif one_by_one:
        for i in range(rows):
            total[0] += block.value[i] * block.weight[i]
    else:
        i = 0
        while i + lanes(<double> 0) <= rows:
            sum = fma(load(&block.value[i]), load(&block.weight[i]), sum)
            i += lanes(<double> 0)
        while i < rows:
            last += block.value[i] * block.weight[i]
            i += 1
        total[0] += reduce_add(sum) + last
    if batch.log_sum_exp:
        for i in range(rows):
            write(<real*> batch.log_sum_exp + first + i, <real> block.log_sum_exp[i])
    write_rows(batch.maximum, first, rows, &block.maximum[0])
    write_rows(batch.others, first, rows, &block.others[0])
    write_rows(batch.target_logit, first, rows, &block.target_logit[0])
    write_rows(batch.soft_distance, first, rows, &block.soft_distance[0])


# ------------------------------------------------------------------- conversion to and from storage

cdef void widen_to_float(const char* source, int storage, float* to, Py_ssize_t count) noexcept nogil:
    # Of numbers that float holds.
    cdef Py_ssize_t i = 0
    cdef float buffer[16]
    cdef half pending_half[16]
    cdef bfloat16 pending_bfloat16[16]
    if storage == FLOAT32:
        memcpy(to, source, count * sizeof(float))
    elif storage == FLOAT16:
        while i + lanes(<float> 0) <= count:
            store(to + i, load_half(<const half*> source + i))
            i += lanes(<float> 0)
        if i < count:
            memcpy(pending_half, <const half*> source + i, (count - i) * sizeof(half))
            store(buffer, load_half(pending_half))
            memcpy(to + i, buffer, (count - i) * sizeof(float))
    else:
        while i + lanes(<float> 0) <= count:
            store(to + i, load_bfloat16(<const bfloat16*> source + i))
            i += lanes(<float> 0)
        if i < count:
            memcpy(pending_bfloat16, <const bfloat16*> source + i, (count - i) * sizeof(bfloat16))
            store(buffer, load_bfloat16(pending_bfloat16))
            memcpy(to + i, buffer, (count - i) * sizeof(float))


cdef void widen(const char* source, int storage, real* to, Py_ssize_t count) noexcept nogil:
    # `count` contiguous numbers of any storage in the working precision.
    cdef Py_ssize_t i = 0, k
    cdef float buffer[16]
    if storage == native_storage(<real> 0):
        memcpy(to, source, count * sizeof(real))
    elif storage == FLOAT64:
        if real is float:
            while i + lanes(<float> 0) <= count:
                store(to + i, load_narrowed(<const double*> source + i, <float> 0))
                i += lanes(<float> 0)
            for i in range(i, count):
                to[i] = <float> read(<const double*> source + i)
    elif real is float:
        widen_to_float(source, storage, to, count)
    else:
        while i < count:
            widen_to_float(source + i * storage_size(storage), storage, &buffer[0], min_size(16, count - i))
            for k in range(min_size(16, count - i)):
                to[i + k] = buffer[k]
            i += 16


cdef void narrow_times(const real* source, real factor, char* to, int storage,
                              Py_ssize_t count) noexcept nogil:
    # The other way, times a factor, rounding to nearest: 16-bit numbers only.
    cdef vec[real] a = splat(factor)
    cdef Py_ssize_t i = 0
    cdef float buffer[16]
    cdef half pending_half[16]
    cdef bfloat16 pending_bfloat16[16]
    if real is float:
        if storage == FLOAT16:
            while i + lanes(<real> 0) <= count:
                store_half(<half*> to + i, load(source + i) * a)
                i += lanes(<real> 0)
            if i < count:
                memcpy(buffer, source + i, (count - i) * sizeof(float))
                store_half(pending_half, load(<const float*> buffer) * a)
                memcpy(<half*> to + i, pending_half, (count - i) * sizeof(half))
        else:
            while i + lanes(<real> 0) <= count:
                store_bfloat16(<bfloat16*> to + i, load(source + i) * a)
                i += lanes(<real> 0)
            if i < count:
                memcpy(buffer, source + i, (count - i) * sizeof(float))
                store_bfloat16(pending_bfloat16, load(<const float*> buffer) * a)
                memcpy(<bfloat16*> to + i, pending_bfloat16, (count - i) * sizeof(bfloat16))


cdef void narrow(const real* source, char* to, int storage, Py_ssize_t count) noexcept nogil:
    if storage == FLOAT32 or storage == FLOAT64:
        memcpy(to, source, count * sizeof(real))
    else:
        narrow_times(source, <real> 1, to, storage, count)
