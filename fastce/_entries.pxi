# What the entries of both families share: evaluate() of a kernel takes a call on canonical arrays, and returns
# None, with nothing written, where an argument is wrong or has to be laid out first.

cdef enum:
    SINGLE_TASK = 1 << 17      # TASK_ELEMENTS of _parallel.py: the sums are the same with tasks and without


cdef inline bint is_same_shape(cnp.ndarray a, cnp.ndarray b, int ndim):
    cdef int i
    for i in range(ndim):
        if cnp.PyArray_DIM(a, i) != cnp.PyArray_DIM(b, i):
            return False
    return True


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
