# Labels and weights of rows: loaded, checked and summed.
# Needs batch.pxi.

cdef inline int read_label(const Labels* labels, Py_ssize_t row, Py_ssize_t classes,
                           long long* label) noexcept nogil:
    # Loads a label once and checks the loaded value: another thread may change the array meanwhile, and must not be
    # able to make the kernel write out of bounds. An ignored row gets -1.
    cdef const char* at = labels.data + row * labels.stride
    cdef long long value
    if labels.itemsize == 8:
        value = read(<const long long*> at)
        if labels.unsigned and value < 0:  # 2**63 or more: neither a class nor ignore_index
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


ctypedef fused stored_label:
    (signed char)
    (unsigned char)
    short
    (unsigned short)
    int
    (unsigned int)
    (long long)


cdef inline bint copy_labels(const stored_label* labels, Py_ssize_t count, bint ignores, long long ignored,
                             unsigned long long last, long long* to, bint* any_ignored) noexcept nogil:
    # Copies labels without a branch per label. Ignored ones become -1. Returns False if a label is neither ignored nor
    # in [0, last]. The checks look at the signs of the numbers below, so that the loops can be vectorised. The
    # differences are unsigned, because a caller may pass the smallest integer, for which a signed difference is
    # undefined.
    cdef long long wrong = 0, seen = 0, label, is_ignored
    cdef Py_ssize_t i
    for i in range(count if ignores else 0):
        label = <long long> read(labels + i)
        is_ignored = -<long long> (label == ignored)
        seen |= is_ignored
        wrong |= (label | <long long> (last - <unsigned long long> label)) & ~is_ignored
        to[i] = label | is_ignored
    for i in range(0 if ignores else count):
        label = <long long> read(labels + i)
        wrong |= label | <long long> (last - <unsigned long long> label)
        to[i] = label
    any_ignored[0] = seen != 0
    return wrong >= 0


cdef bint try_load_labels(const Batch* batch, Py_ssize_t first, Py_ssize_t rows, long long* to,
                          bint* any_ignored) noexcept nogil:
    # Loads up to BLOCK_ROWS contiguous labels. False if one is out of range, or they are not contiguous. The checks
    # read the copy, which no other thread can change.
    cdef const char* labels = batch.labels.data + first * batch.labels.stride
    cdef long long ignored = batch.labels.ignore_index
    cdef unsigned long long last = batch.classes - 1
    cdef bint ignores = batch.labels.ignores
    if batch.labels.stride != batch.labels.itemsize:
        return False
    if batch.labels.itemsize == 8:
        # Unsigned labels of 2^63 or more are out of range, and a negative ignore_index ignores none.
        ignores = ignores and not (batch.labels.unsigned and ignored < 0)
        return copy_labels(<const long long*> labels, rows, ignores, ignored, last, to, any_ignored)
    if batch.labels.itemsize == 4 and batch.labels.unsigned:
        return copy_labels(<const unsigned int*> labels, rows, ignores, ignored, last, to, any_ignored)
    if batch.labels.itemsize == 4:
        return copy_labels(<const int*> labels, rows, ignores, ignored, last, to, any_ignored)
    if batch.labels.itemsize == 2 and batch.labels.unsigned:
        return copy_labels(<const unsigned short*> labels, rows, ignores, ignored, last, to, any_ignored)
    if batch.labels.itemsize == 2:
        return copy_labels(<const short*> labels, rows, ignores, ignored, last, to, any_ignored)
    if batch.labels.unsigned:
        return copy_labels(<const unsigned char*> labels, rows, ignores, ignored, last, to, any_ignored)
    return copy_labels(<const signed char*> labels, rows, ignores, ignored, last, to, any_ignored)


ctypedef fused stored_scalar:
    float
    double


cdef inline void copy_scalars(const stored_scalar* scalars, Py_ssize_t stride, Py_ssize_t count,
                              double* to) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(stored_scalar):  # a separate loop, which can be vectorised
        for i in range(count):
            to[i] = read(scalars + i)
    else:
        for i in range(count):
            to[i] = read(<const stored_scalar*> (<const char*> scalars + i * stride))


cdef void read_scalars(const Scalars* scalars, Py_ssize_t first, Py_ssize_t rows, double* to) noexcept nogil:
    # 1 if there are no scalars, and after the last one.
    cdef const char* at = scalars.data + first * scalars.stride
    cdef Py_ssize_t i
    if scalars.data == NULL:
        for i in range(rows):
            to[i] = 1.0
    elif scalars.storage == FLOAT64:
        copy_scalars(<const double*> at, scalars.stride, rows, to)
    else:
        copy_scalars(<const float*> at, scalars.stride, rows, to)
    for i in range(rows, (rows + 15) // 16 * 16):
        to[i] = 1.0


cdef struct WeightSum:
    double total
    bint any_counts  # whether any weight is not 0: nonzero weights may also sum to 0


cdef int weigh_labels(const Batch* batch, Py_ssize_t rows, WeightSum* weights,
                      Py_ssize_t* position) noexcept nogil:
    # Checks every label before anything is written, and sums the weights that the mean divides by. It works block by
    # block, because one label at a time would be expensive for short rows. The sum carries its rounding errors, because
    # there may be millions of weights.
    cdef const double* class_weight = batch.class_weight if batch.kind != FOCAL else NULL  # alpha is not a weight
    cdef bint unweighted = class_weight == NULL and batch.sample_weight.data == NULL
    cdef long long labels[BLOCK_ROWS]
    cdef double weight[BLOCK_ROWS]
    cdef wide_sum[double] sum
    cdef long long unweighted_rows = 0
    cdef vec[double] zero = splat(0.0), w
    cdef mask[double] counts = less(zero, zero)
    cdef bint any_ignored
    cdef Py_ssize_t first = 0, count, i
    while first < rows:
        count = min_size(BLOCK_ROWS, rows - first)
        if not try_load_labels(batch, first, count, &labels[0], &any_ignored):
            for i in range(count):
                if read_label(&batch.labels, first + i, batch.classes, &labels[i]) != OK:
                    position[0] = first + i
                    return BAD_LABEL
            any_ignored = True
        if unweighted:
            unweighted_rows += count
            for i in range(count if any_ignored else 0):
                unweighted_rows += labels[i] >> 63  # -1 for each ignored row
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
    weights.total = <double> unweighted_rows + sum.total()
    weights.any_counts = any(counts) or unweighted_rows > 0
    return OK
