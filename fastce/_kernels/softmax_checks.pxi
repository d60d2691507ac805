# Checks of the numbers in a softmax call's arguments: probabilities in range, weights of rows.
# Needs labels.pxi, sigmoid_calls.pxi.

cdef double largest_number(cnp.ndarray array):
    return 1.7976931348623157e308 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64 else 3.4028234663852886e38


cdef Py_ssize_t first_bad_probability(target, sample_weight, int axis) except -2:
    # The position of a number that is negative or not finite, in a row that counts; or -1.
    cdef double largest = largest_number(<cnp.ndarray> target)
    cdef Py_ssize_t position
    cdef bint in_order = cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray> target)
    if cnp.PyArray_TYPE(<cnp.ndarray> target) == cnp.NPY_BOOL:
        return -1
    look = target if in_order else layout.compact(target)
    position = first_out_of_range(look, largest)
    if position < 0 or (sample_weight is None and in_order):
        return position
    if sample_weight is not None:
        sample_weight = np.broadcast_to(sample_weight, target.shape[:axis] + target.shape[axis + 1:])
        sample_weight = np.expand_dims(sample_weight, axis)
    return first_out_of_range(target, largest, sample_weight)


cdef double largest_size(const Scalars* scalars, Py_ssize_t rows) noexcept nogil:
    # The largest absolute value; NaN if a number is not finite.
    cdef double numbers[BLOCK_ROWS]
    cdef vec[double] largest = splat(0.0), x, bad = largest
    cdef Py_ssize_t first = 0, count, i
    while first < rows:
        count = min_size(BLOCK_ROWS, rows - first)
        read_scalars(scalars, first, count, &numbers[0])
        for i in range(count, (count + 15) // 16 * 16):
            numbers[i] = 0.0
        i = 0
        while i < count:
            x = load(<const double*> &numbers[i])
            largest = max(largest, abs(x))
            bad = bad + (x - x)
            i += lanes(<double> 0)
        first += count
    return reduce_max(largest) + reduce_add(bad)


cdef int weigh_batch(const Batch* batch, Py_ssize_t rows, WeightSum* weights, Py_ssize_t* position) noexcept nogil:
    # Sums the weights of all rows, with the rounding errors carried along, and checks the labels.
    cdef double numbers[BLOCK_ROWS]
    cdef wide_sum[double] sum
    cdef vec[double] zero = splat(0.0), x
    cdef mask[double] counts = less(zero, zero)
    cdef Py_ssize_t first = 0, count, i
    if batch.labels.data != NULL:
        return weigh_labels(batch, rows, weights, position)
    if batch.sample_weight.data == NULL:
        weights.total = rows
        weights.any_counts = rows > 0
        return OK
    while first < rows:
        count = min_size(BLOCK_ROWS, rows - first)
        read_scalars(&batch.sample_weight, first, count, &numbers[0])
        for i in range(count, (count + 15) // 16 * 16):
            numbers[i] = 0.0
        i = 0
        while i < count:
            x = load(<const double*> &numbers[i])
            sum.add(x)
            counts = counts | less(zero, abs(x))
            i += lanes(<double> 0)
        first += count
    weights.total = sum.total()
    weights.any_counts = any(counts)
    return OK
