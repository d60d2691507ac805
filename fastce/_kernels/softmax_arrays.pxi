# The memory of the arrays of a softmax call: the arrays that the kernels may use in place, and blocks of the others,
# which are gathered.
# Needs numbers.pxi.

cdef enum:  # which array of a call
    LOGITS = 0
    PROBABILITIES = 1
    MASK = 2
    GRAD = 3
    HESS = 4
    LABELS = 5         # from here on, one number per row
    SAMPLE_WEIGHT = 6
    GRAD_OUTPUT = 7
    LOSS = 8
    FLAT = 9           # the logits again, each once, in memory order
    ARRAYS = 10


cdef inline object as_array(object given):
    # An array, from NumPy's own arrays, lists and Python's numbers. None for anything else: the checks have a better
    # error.
    if cnp.PyArray_CheckExact(given):
        return given
    if not isinstance(given, (list, float, int)):
        return None
    try:
        return np.asarray(given)
    except ValueError:  # from lists only; other exceptions may come from a signal handler
        return None


cdef inline bint is_native(object array):
    return cnp.PyArray_CheckExact(array) and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray> array)


cdef inline bint is_one_block(cnp.ndarray array):
    # Whether the array fills its memory without gaps, in C or Fortran order.
    return cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_IS_F_CONTIGUOUS(array)


cdef int join_axes(cnp.ndarray array, int first, int stop, bint within, Py_ssize_t* size, Py_ssize_t* stride):
    # The number of axes left when neighbouring axes are joined, among those from `first` to `stop` or among all others;
    # 3 if there are more than two.
    cdef int joined = 0, i
    cdef Py_ssize_t length, step
    for i in range(cnp.PyArray_NDIM(array)):
        length = cnp.PyArray_DIM(array, i)
        step = cnp.PyArray_STRIDE(array, i)
        if (first <= i < stop) != within or length == 1:
            continue
        if joined and stride[joined - 1] == length * step:
            size[joined - 1] *= length
            stride[joined - 1] = step
        elif joined == 2:
            return 3
        else:
            size[joined] = length
            stride[joined] = step
            joined += 1
    return joined


cdef Py_ssize_t stride_of_rows(cnp.ndarray array, int first, int stop) noexcept:
    # Of the innermost axis of the batch, even if it has length 1. Without any, the classes are a plane of one row.
    cdef int i
    for i in range(cnp.PyArray_NDIM(array) - 1, -1, -1):
        if not first <= i < stop:
            return cnp.PyArray_STRIDE(array, i)
    return cnp.PyArray_ITEMSIZE(array)


cdef bint set_matrix(Matrix* matrix, cnp.ndarray array, int axis, int class_axes, int storage):
    # Describes the array as rows of classes. False if the class axes do not join into one axis, or the others into two.
    cdef Py_ssize_t size[2]
    cdef Py_ssize_t stride[2]
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(array), classes
    cdef int joined = join_axes(array, axis, axis + class_axes, True, &size[0], &stride[0])
    if joined > 1:
        return False
    classes = size[0] if joined else 1
    matrix.class_stride = stride[0] if classes != 1 else item
    joined = join_axes(array, axis, axis + class_axes, False, &size[0], &stride[0])
    # The distance between planes is counted in items. In a field of packed records it may not be a whole number.
    if joined > 2 or matrix.class_stride % item != 0:
        return False
    matrix.data = <char*> cnp.PyArray_DATA(array)
    matrix.storage = storage
    if joined:
        matrix.row_stride = stride[joined - 1]
    elif matrix.class_stride == item:
        matrix.row_stride = classes * item
    else:  # the plan depends on it: a row that is cut out of a batch keeps the stride, and so the bits
        matrix.row_stride = stride_of_rows(array, axis, axis + class_axes)
    matrix.inner = 1 if joined == 0 else size[joined - 1]
    matrix.outer_stride = stride[0] if joined == 2 else 0
    return True


cdef void extent(cnp.ndarray array, char** low, char** high):
    # The range of memory that an array covers.
    cdef Py_ssize_t reach
    cdef int i
    low[0] = <char*> cnp.PyArray_DATA(array)
    high[0] = low[0] + cnp.PyArray_ITEMSIZE(array)
    for i in range(cnp.PyArray_NDIM(array)):
        reach = cnp.PyArray_STRIDE(array, i) * (cnp.PyArray_DIM(array, i) - 1)
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach


cdef bint reach_apart(cnp.ndarray a, cnp.ndarray b):
    cdef char* a_low
    cdef char* a_high
    cdef char* b_low
    cdef char* b_high
    extent(a, &a_low, &a_high)
    extent(b, &b_low, &b_high)
    return a_high <= b_low or b_high <= a_low


cdef bint can_be_written(object given, int kind, bint like_logits, list arrays):
    # Whether the array has the right type and overlaps no other. It may be the first one, the logits.
    cdef cnp.ndarray array, z = arrays[0]
    cdef Py_ssize_t i
    if not (is_native(given) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> given) and is_one_block(<cnp.ndarray> given)):
        return False
    array = given
    if cnp.PyArray_TYPE(array) != kind and not (
            cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32 and like_logits and cnp.PyArray_ITEMSIZE(z) == 2):
        return False
    for i in range(1, len(arrays)):
        if not reach_apart(array, <cnp.ndarray> arrays[i]):
            return False
    return reach_apart(array, z) or (
        like_logits and cnp.PyArray_DATA(array) == cnp.PyArray_DATA(z) and cnp.PyArray_TYPE(array) == kind
        and cnp.PyArray_ISNOTSWAPPED(z)
        and cnp.PyArray_IS_C_CONTIGUOUS(array) == cnp.PyArray_IS_C_CONTIGUOUS(z)
        and cnp.PyArray_IS_F_CONTIGUOUS(array) == cnp.PyArray_IS_F_CONTIGUOUS(z))


cdef object new_like(cnp.ndarray logits, int kind):
    # A new array in the memory order of the logits.
    if cnp.PyArray_IS_C_CONTIGUOUS(logits) or is_in_order(logits):
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(logits), cnp.PyArray_DIMS(logits), kind, False)
    if cnp.PyArray_IS_F_CONTIGUOUS(logits):
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(logits), cnp.PyArray_DIMS(logits), kind, True)
    return layout.new_like(logits)


cdef bint is_in_order(cnp.ndarray array):
    # Whether strides decrease from axis to axis and are positive.
    cdef Py_ssize_t least = cnp.PyArray_ITEMSIZE(array)
    cdef int i
    for i in range(cnp.PyArray_NDIM(array) - 1, -1, -1):
        if cnp.PyArray_DIM(array, i) > 1:
            if cnp.PyArray_STRIDE(array, i) < least:
                return False
            least = cnp.PyArray_STRIDE(array, i) * cnp.PyArray_DIM(array, i)
    return True


cdef inline bint is_output(int which) noexcept nogil:
    return which == GRAD or which == HESS or which == LOSS


cdef inline Matrix* matrix_at(Batch* batch, int which) noexcept nogil:
    if which == LOGITS:
        return &batch.logits
    if which == PROBABILITIES:
        return &batch.probabilities
    if which == MASK:
        return &batch.mask
    return &batch.grad if which == GRAD else &batch.hess


cdef inline Py_ssize_t block_size(int storage) noexcept nogil:
    # The size of a number, for the storages that blocks may have.
    if storage <= BFLOAT16:
        return storage_size(storage)
    return 1 if storage <= UINT8 else 2 if storage <= UINT16 else 4 if storage <= UINT32 else 8


cdef void point_at(Batch* batch, int which, char* data, int storage) noexcept nogil:
    # Describes contiguous rows; `data` is where the first row of the batch would be.
    cdef Matrix* matrix
    cdef Py_ssize_t size = block_size(storage)
    if which == LABELS:
        batch.labels.data = data
    elif which == SAMPLE_WEIGHT:
        batch.sample_weight.data = data
    elif which == GRAD_OUTPUT:
        batch.grad_output.data = data
    elif which == LOSS:
        batch.loss = data
    else:
        matrix = matrix_at(batch, which)
        matrix.data = data
        matrix.storage = FLOAT32 if which == MASK else storage
        matrix.class_stride = size
        matrix.row_stride = batch.classes * size
        matrix.inner = <Py_ssize_t> 1 << 62
        matrix.outer_stride = 0


cdef void widen_all(const Numbers* numbers, Py_ssize_t first, Py_ssize_t count, real* to) noexcept nogil:
    cdef Py_ssize_t done = 0, part
    while done < count:
        part = min_size(count - done, chunk_elements(<real> 0))
        read_leading(numbers, numbers.axes, first + done, part, to + done)
        done += part


cdef void narrow_all(const Numbers* numbers, Py_ssize_t first, Py_ssize_t count, const real* source) noexcept nogil:
    cdef Py_ssize_t done = 0, part
    while done < count:
        part = min_size(count - done, chunk_elements(<real> 0))
        write_numbers(numbers, first + done, part, source + done, False)
        done += part
