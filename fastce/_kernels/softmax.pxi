# A batch of a softmax loss, from the plan on: the functions that the entries call.
# Needs block.pxi, divergence.pxi.

cdef void spread_smoothing(const Batch* batch, Py_ssize_t classes, real* soft_weight) noexcept nogil:
    # The target mass of each class from label smoothing.
    cdef double share = batch.label_smoothing / classes
    cdef Py_ssize_t j
    for j in range(classes):
        soft_weight[j] = <real> (batch.class_weight[j] * share if batch.class_weight else share)


cdef int run_planned(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, real tag,
                     double* total) noexcept nogil:
    cdef int plan = plan_of_batch(batch, tag)
    if batch.kind == DIVERGENCE:
        return run_divergence(batch, start, stop, tag, total)
    return run_blocks(batch, start, stop, plan, tag, total)


cdef int run_softmax(const Batch* batch, Py_ssize_t start, Py_ssize_t stop, bint double_precision,
                     double* total) noexcept nogil:
    cdef DefaultEnvironment environment
    environment.enter()
    if double_precision:
        return run_planned(batch, start, stop, <double> 0, total)
    return run_planned(batch, start, stop, <float> 0, total)
