# The short way for what most calls are: native contiguous arrays, and weights at most. It writes
# nothing before it has decided, and says nothing: if anything is unusual, or wrong, it returns None,
# and the long way does the call or raises.

cdef enum:
    SINGLE_TASK = 1 << 17      # TASK_ELEMENTS of _parallel.py: the sums are the same either way
    QUICK_ELEMENTS = 1 << 23   # what the long way's 50 microseconds of Python are worth saving for (65536 x
    #                            10: 0.61 ms with them). Labels are checked at one go

cdef inline bint is_usual(object array):
    return (cnp.PyArray_CheckExact(array) and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray> array)
            and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray> array))


cdef inline bint is_same_shape(cnp.ndarray a, cnp.ndarray b, int ndim):
    cdef int i
    for i in range(ndim):
        if cnp.PyArray_DIM(a, i) != cnp.PyArray_DIM(b, i):
            return False
    return True


cdef inline bint arrays_are_apart(cnp.ndarray a, cnp.ndarray b):
    cdef char* a_data = <char*> cnp.PyArray_DATA(a)
    cdef char* b_data = <char*> cnp.PyArray_DATA(b)
    return (a_data + cnp.PyArray_NBYTES(a) <= b_data) or (b_data + cnp.PyArray_NBYTES(b) <= a_data)


cdef object output_for(object out, cnp.ndarray logits, cnp.ndarray target):
    # A new array like the logits, or `out` if it can be written as it is; None if it cannot.
    if out is None:
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(logits), cnp.PyArray_DIMS(logits),
                                 cnp.PyArray_TYPE(logits), False)
    if not (is_usual(out) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out)
            and cnp.PyArray_TYPE(<cnp.ndarray> out) == cnp.PyArray_TYPE(logits)
            and cnp.PyArray_NDIM(<cnp.ndarray> out) == cnp.PyArray_NDIM(logits)
            and is_same_shape(<cnp.ndarray> out, logits, cnp.PyArray_NDIM(logits))
            and arrays_are_apart(<cnp.ndarray> out, target)
            and (arrays_are_apart(<cnp.ndarray> out, logits)
                 or cnp.PyArray_DATA(<cnp.ndarray> out) == cnp.PyArray_DATA(logits))):
        return None
    return out


cdef inline bint all_usual(const real* weight, Py_ssize_t count) noexcept nogil:
    # So near to 1 or -1 that no product of them leaves float32, or 0: no NaN.
    cdef bint usual = True
    cdef real size
    cdef Py_ssize_t i
    for i in range(count):
        size = weight[i] if weight[i] >= 0 else -weight[i]
        usual &= (size == 0) | ((size >= <real> 3e-8) & (size <= <real> 3e7))
    return usual


cdef bint is_usual_weight(object weight, cnp.ndarray like, object out):
    # Of the shape of `like`, and apart from the output.
    cdef cnp.ndarray w
    if not is_usual(weight):
        return False
    w = weight
    if not (cnp.PyArray_NDIM(w) == cnp.PyArray_NDIM(like)
            and is_same_shape(w, like, cnp.PyArray_NDIM(like))
            and (out is None or (cnp.PyArray_Check(out) and arrays_are_apart(<cnp.ndarray> out, w)))):
        return False
    if cnp.PyArray_TYPE(w) == cnp.NPY_FLOAT32:
        return all_usual(<const float*> cnp.PyArray_DATA(w), cnp.PyArray_SIZE(w))
    if cnp.PyArray_TYPE(w) == cnp.NPY_FLOAT64:
        return all_usual(<const double*> cnp.PyArray_DATA(w), cnp.PyArray_SIZE(w))
    return False


cdef inline object results_of(int results, object loss, object grad, object hess):
    return loss if results == 1 else (loss, grad) if results == 2 else (loss, grad, hess)


cdef inline int working_type(bint double_precision):
    return cnp.NPY_FLOAT64 if double_precision else cnp.NPY_FLOAT32


cdef inline bint has_shape_without(cnp.ndarray y, cnp.ndarray z, int axis):
    cdef int i
    if cnp.PyArray_NDIM(y) != cnp.PyArray_NDIM(z) - 1:
        return False
    for i in range(cnp.PyArray_NDIM(y)):
        if cnp.PyArray_DIM(y, i) != cnp.PyArray_DIM(z, i if i < axis else i + 1):
            return False
    return True


cdef inline Py_ssize_t size_behind(cnp.ndarray array, int axis):
    cdef Py_ssize_t size = 1
    cdef int i
    for i in range(axis + 1, cnp.PyArray_NDIM(array)):
        size *= cnp.PyArray_DIM(array, i)
    return size


cdef void set_usual(Matrix* matrix, cnp.ndarray array, int storage, Py_ssize_t classes, Py_ssize_t behind):
    # A contiguous array of rows, or of planes of so many rows.
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(array)
    cdef bint planes = behind > 1 and classes > 1
    matrix.data = <char*> cnp.PyArray_DATA(array)
    matrix.storage = storage
    matrix.class_stride = behind * size if planes else size
    matrix.row_stride = size if planes else classes * size
    matrix.inner = behind if planes else max_size(cnp.PyArray_SIZE(array) // classes, 1)
    matrix.outer_stride = classes * behind * size if planes else 0
