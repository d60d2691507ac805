# A chunk of a long row as the stream kernel takes it: its logits, soft targets and mask. Needs passes.pxi.

cdef inline bint is_plain(const Batch* batch) noexcept nogil:
    # The logits can be read where they lie.
    return (batch.logits.storage <= FLOAT64 and batch.logit_scale == 1.0 and batch.softcap == 0.0
            and batch.mask.data == NULL)


cdef const real* logits_chunk(const Batch* batch, Py_ssize_t row, Py_ssize_t first,
                              Py_ssize_t count, real* buffer, real* slope) noexcept nogil:
    # u of `count` classes from `first`: in place, or made in the buffer.
    cdef const char* source = (row_address(&batch.logits, row)
                               + first * batch.logits.class_stride)
    cdef const char* mask
    cdef Py_ssize_t i
    if is_plain(batch):
        return <const real*> source
    widen(source, batch.logits.storage, buffer, count)
    if batch.softcap != 0.0:
        cap(buffer, slope, count, batch.logit_scale, batch.softcap)
    elif batch.logit_scale != 1.0:
        multiply(<const real*> buffer, <real> batch.logit_scale, buffer, count)
    if batch.mask.data != NULL:
        mask = row_address(&batch.mask, row) + first * batch.mask.class_stride
        for i in range(count):
            if not mask[i * batch.mask.class_stride]:
                buffer[i] = -INFINITY
    return buffer


cdef inline void clear_masked(const Batch* batch, Py_ssize_t row, Py_ssize_t first, Py_ssize_t count,
                              real* derivatives, Py_ssize_t stride) noexcept nogil:
    # No loss depends on a masked logit.
    cdef const char* mask = row_address(&batch.mask, row) + first * batch.mask.class_stride
    cdef Py_ssize_t i
    for i in range(count):
        if not mask[i * batch.mask.class_stride]:
            derivatives[i * stride] = 0


cdef inline bint has_no_softmax(const RowBlock* block, Py_ssize_t i) noexcept nogil:
    # Such a row multiplies its exponentials by NaN, those of masked classes too, which are 0.
    return block.row_scale[i] != block.row_scale[i]


cdef const real* target_chunk(const Batch* batch, Py_ssize_t row, Py_ssize_t first,
                              Py_ssize_t count, double uniform, real* buffer) noexcept nogil:
    # Soft target mass t_c = w_c ((1 - label_smoothing) q_c + uniform). A masked class takes no label
    # smoothing; probability on it makes the loss +inf, as a masked label does.
    cdef const real* shared = <const real*> batch.soft_weight
    cdef const real* q = NULL
    cdef const char* mask = NULL
    cdef real rest = <real> (1.0 - batch.label_smoothing), floor_mass = <real> uniform
    cdef Py_ssize_t i
    if batch.probabilities.data != NULL:
        q = <const real*> (row_address(&batch.probabilities, row) + first * sizeof(real))
    if batch.mask.data != NULL:
        mask = row_address(&batch.mask, row) + first * batch.mask.class_stride
    if q == NULL and mask == NULL:
        return shared + first
    if mask == NULL and batch.class_weight == NULL and uniform == 0.0:
        return q
    for i in range(count):
        buffer[i] = (rest * read(q + i) if q else <real> 0)
        if mask == NULL or mask[i * batch.mask.class_stride]:
            buffer[i] += floor_mass
    if batch.class_weight:
        for i in range(count):
            buffer[i] *= <real> batch.class_weight[first + i]
    return buffer


cdef inline double smoothing_share(const Batch* batch, Py_ssize_t row) noexcept nogil:
    # label_smoothing / K, where K counts the classes that are not masked.
    cdef const char* mask
    cdef Py_ssize_t i, classes = batch.classes
    if batch.label_smoothing == 0.0:
        return 0.0
    if batch.mask.data != NULL:
        mask = row_address(&batch.mask, row)
        classes = 0
        for i in range(batch.classes):
            classes += mask[i * batch.mask.class_stride] != 0
    return batch.label_smoothing / classes if classes else 0.0


cdef inline void forget_masked_target(const Batch* batch, Py_ssize_t row, RowBlock* block,
                                      Py_ssize_t i) noexcept nogil:
    # The loss of a masked target is +inf whatever its logit is: the derivatives by it are 0.
    if batch.mask.data != NULL and not row_address(&batch.mask, row)[
            block.label[i] * batch.mask.class_stride]:
        block.grad_at_label[i] = 0.0
        block.hess_at_label[i] = 0.0
