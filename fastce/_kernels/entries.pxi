# Shared by the entries of both families. Every call of a loss enters through evaluate(). It takes NumPy's own arrays
# and Python's numbers, and chooses the denominator of the mean, the precision, the outputs and the tasks. If an
# argument is wrong or of another type, it returns None and has written nothing. Then _call/rows.py or _call/elements.py
# raises the error, or converts the argument and calls evaluate() again with `checked`, which raises errors about the
# numbers in arrays.
# Needs batch.pxi.

cdef enum:
    SINGLE_TASK = 1 << 17    # TASK_ELEMENTS of _call/threads.py: sums are the same with and without tasks
    FACTOR_BITS = 100        # factors between 2^-100 and 2^100 are multiplied in float32, whose range ends at 2^128.
    #                          If a product may be larger, or a part of it smaller, float64 is used
    STREAM_BYTES = 8 << 20   # least size of outputs that are written past the caches: about a quarter of a last-level
    #                          cache of 32 MB (see "rows" of `python -m bench`: 10,000 to 30,000 rows of 100 classes)


cdef enum:
    MEAN = 0
    SUM = 1
    NONE = 2


REDUCTIONS = {"mean": MEAN, "sum": SUM, "none": NONE}


cdef int raise_changed(str name) except -1:
    raise RuntimeError(f"{name} was changed by another thread during the call")


cdef int check_status(int status) except -1:
    if status == BAD_LABEL:
        raise_changed("target")
    if status == NO_MEMORY:
        raise MemoryError("no memory for the scratch space of a kernel")
    return 0


cdef list parts_of(work, Py_ssize_t count, Py_ssize_t size, Py_ssize_t multiple):
    # The results of work(start, stop) for the tasks of `count` rows or elements.
    return threads.run(work, threads.tasks_of(count, size, multiple), count * size)


cdef double sum_of_parts(work, Py_ssize_t count, Py_ssize_t size, Py_ssize_t multiple) except? -1.0:
    return threads.total(parts_of(work, count, size, multiple))


cdef bint set_denominator(double* denominator, int reduction, normalizer, double total, bint any_counts,
                          bint checked) except -1:
    # Sets the divisor of the sum of the losses: NaN if no weight counts, or if their sum is infinite.
    cdef double given = 1.0
    if normalizer is not None and not (is_number(normalizer, &given) and 0.0 < given < INFINITY):
        return False
    denominator[0] = given if reduction == MEAN else 1.0
    if reduction != MEAN or normalizer is not None:
        return True
    if any_counts and fabs(total) != INFINITY and not total > 0.0:
        if checked:
            checks.positive_sum_of_weights(total)
        return False
    denominator[0] = total if any_counts and fabs(total) != INFINITY else NAN
    return True


def denominator_of(double total, bint any_counts):
    """Return the divisor of a mean, given the sum of its weights and whether any is nonzero; or raise."""
    cdef double denominator
    set_denominator(&denominator, MEAN, None, total, any_counts, True)
    return denominator


cdef inline bint leaves_float32(double scale, double weight, double option, double factor) noexcept nogil:
    # Whether the product of these factors, or a partial product, may leave the range of float32.
    return bits_from_one(scale) + bits_from_one(weight) + bits_from_one(option) + bits_from_one(factor) > FACTOR_BITS


def factors_leave_float32(double scale, double weight, double option, double factor):
    """Return whether a product of these factors has to be computed in float64."""
    return leaves_float32(scale, weight, option, factor)


cdef inline double bits_from_one(double factor) noexcept nogil:
    # How far a factor is from 1, in powers of two: its logarithm, interpolated linearly between powers. A factor of 0
    # does no harm.
    cdef int exponent
    cdef double fraction
    if factor == 0.0 or factor == 1.0:
        return 0.0
    fraction = frexp(fabs(factor), &exponent)  # in [1/2, 1)
    return fabs(exponent - 2.0 + 2.0 * fraction)


cdef inline bint is_number(object value, double* number):
    # Whether this is a Python number that a double can hold. Others are left to the checks.
    if not isinstance(value, (float, int)):
        return False
    try:
        number[0] = value
    except OverflowError:
        return False
    return True


cdef inline tuple outputs_of(out, int results):
    # The outputs of gradient and Hessian; None if `out` has the wrong length.
    if out is None or results == 1:
        return None, None
    if not isinstance(out, tuple):
        return (out, None) if results == 2 else None
    out = tuple(out)  # of a named tuple
    if results == 2:
        out += (None,)
    return out if len(<tuple> out) == 2 else None


cdef inline object results_of(int results, object loss, object grad, object hess):
    return loss if results == 1 else (loss, grad) if results == 2 else (loss, grad, hess)


cdef inline int working_type(bint double_precision):
    return cnp.NPY_FLOAT64 if double_precision else cnp.NPY_FLOAT32


cdef inline bint has_shape(cnp.ndarray array, int ndim, const cnp.npy_intp* shape):
    cdef int i
    if cnp.PyArray_NDIM(array) != ndim:
        return False
    for i in range(ndim):
        if cnp.PyArray_DIM(array, i) != shape[i]:
            return False
    return True
