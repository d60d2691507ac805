# NumPy's arrays as the kernels take them: addresses, storages and strides.
# Needs batch.pxi.

cdef enum:
    NO_STORAGE = -1


cdef inline int known_storage(cnp.ndarray array):
    # bfloat16 is a type that ml_dtypes registers with NumPy, so it is recognised by name.
    cdef int number = cnp.PyArray_TYPE(array)
    if number == cnp.NPY_FLOAT32:
        return FLOAT32
    if number == cnp.NPY_FLOAT64:
        return FLOAT64
    if number == cnp.NPY_FLOAT16:
        return FLOAT16
    if cnp.PyTypeNum_ISUSERDEF(number) and array.dtype.type.__name__ == "bfloat16":
        return BFLOAT16
    return NO_STORAGE


cdef int storage_of(cnp.ndarray array) except -1:
    cdef int storage = known_storage(array)
    if storage == NO_STORAGE:
        raise AssertionError(f"no kernel for {array.dtype}")
    return storage


# For ShardRun only: unnecessary once that takes arrays as SoftmaxRun does.
cdef Matrix matrix_of(array) except *:
    # A (rows, classes) or (outer, inner, classes) array.
    cdef Matrix matrix
    cdef cnp.ndarray a
    memset(&matrix, 0, sizeof(matrix))
    matrix.inner = 1
    if array is None:
        return matrix
    a = array
    cdef int last = cnp.PyArray_NDIM(a) - 1
    matrix.data = <char*> cnp.PyArray_DATA(a)
    matrix.storage = FLOAT32 if cnp.PyArray_TYPE(a) == cnp.NPY_BOOL else storage_of(a)
    matrix.class_stride = cnp.PyArray_STRIDE(a, last)
    if cnp.PyArray_DIM(a, last) <= 1:
        matrix.class_stride = cnp.PyArray_ITEMSIZE(a)
    matrix.row_stride = cnp.PyArray_STRIDE(a, last - 1)
    matrix.inner = max_size(cnp.PyArray_DIM(a, last - 1), 1)
    matrix.outer_stride = cnp.PyArray_STRIDE(a, 0) if last == 2 else 0
    return matrix


cdef int set_labels(Labels* labels, cnp.ndarray array) except -1:
    labels.data = <char*> cnp.PyArray_DATA(array)
    labels.itemsize = <int> cnp.PyArray_ITEMSIZE(array)
    labels.unsigned = cnp.PyTypeNum_ISUNSIGNED(cnp.PyArray_TYPE(array))
    labels.stride = cnp.PyArray_STRIDE(array, 0)
    return 0


cdef char* data_of(array) except? NULL:
    if array is None:
        return NULL
    return <char*> cnp.PyArray_DATA(<cnp.ndarray> array)


cdef Scalars scalars_of(array) except *:
    # One number per row.
    cdef Scalars scalars
    cdef cnp.ndarray a
    memset(&scalars, 0, sizeof(scalars))
    if array is not None:
        a = array
        scalars.data = <char*> cnp.PyArray_DATA(a)
        scalars.storage = storage_of(a)
        scalars.stride = cnp.PyArray_STRIDE(a, 0)
    return scalars
