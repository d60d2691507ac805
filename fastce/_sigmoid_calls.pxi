# Calls of the sigmoid family, from Python to the kernels.

ELEMENTS_CHUNK = ELEMENTS
"""A split of the elements at a multiple of this changes no sum."""


cdef class SigmoidKernel:
    """What a loss of the sigmoid family is, as the kernels take it."""

    cdef bint focal
    cdef Bce bce
    cdef SigmoidFocal sigmoid_focal
    cdef double label_smoothing

    cdef int reduction
    cdef bint is_quick
    # sum_over_elements(work, count) runs what is more than a single task, all_probable(target) checks it.
    cdef object sum_over_elements
    cdef object all_probable

    def __init__(self, str kind, *, double label_smoothing=0.0, double gamma=0.0, alpha=None,
                 str reduction="none", bint is_quick=True, sum_over_elements=None, all_probable=None):
        self.sum_over_elements = sum_over_elements
        self.all_probable = all_probable
        self.reduction = REDUCTIONS[reduction]
        self.is_quick = is_quick
        self.focal = {"bce": False, "focal": True}[kind]
        self.label_smoothing = label_smoothing
        self.sigmoid_focal = sigmoid_focal_options(gamma, -1.0 if alpha is None else alpha)

    def quick(self, int results, logits, target, sample_weight, out):
        """Return the loss, or a tuple of up to three results, of a usual call, else None."""
        cdef Elements elements
        cdef cnp.ndarray z, y
        cdef int ndim, storage
        cdef Py_ssize_t count
        cdef double total = 0.0, denominator
        cdef bint suspect, double_precision
        cdef SigmoidRun run
        if not (self.is_quick and is_usual(logits) and is_usual(target)):
            return None
        z = logits
        y = target
        ndim = cnp.PyArray_NDIM(z)
        storage = known_storage(z)
        double_precision = storage == FLOAT64
        count = cnp.PyArray_SIZE(z)
        if not (storage != NO_STORAGE
                and cnp.PyArray_TYPE(y) == cnp.PyArray_TYPE(z) and cnp.PyArray_NDIM(y) == ndim
                and is_same_shape(z, y, ndim) and 0 < count <= QUICK_ELEMENTS):
            return None
        # An output of the caller's is written only when the target is known to be in order.
        if out is not None:
            if not (self.all_probable(y) if count > SINGLE_TASK else first_improbable(y, 1.0) < 0):
                return None
        denominator = count
        memset(&elements, 0, sizeof(elements))
        if sample_weight is not None:
            if not is_usual_weight(sample_weight, z, out):
                return None
            if cnp.PyArray_TYPE(<cnp.ndarray> sample_weight) != working_type(double_precision):
                return None
            elements.sample_weight = cnp.PyArray_DATA(<cnp.ndarray> sample_weight)
            denominator = np.sum(sample_weight, dtype=np.float64)
            if not denominator > 0.0:
                return None
        elements.logits = <const char*> cnp.PyArray_DATA(z)
        elements.target = <const char*> cnp.PyArray_DATA(y)
        elements.logits_storage = elements.target_storage = elements.grad_storage = storage
        elements.label_smoothing = self.label_smoothing
        elements.scale = 1.0 / denominator if self.reduction == MEAN else 1.0
        grad = hess = loss = None
        if results > 1:
            grad = output_for(out, z, y)
            if grad is None:
                return None
            elements.grad = <char*> cnp.PyArray_DATA(<cnp.ndarray> grad)
        if results > 2:
            if out is not None:
                return None
            hess = output_for(None, z, y)
            elements.hess = <char*> cnp.PyArray_DATA(<cnp.ndarray> hess)
            elements.hess_storage = storage
        if self.reduction == NONE:
            loss = cnp.PyArray_EMPTY(ndim, cnp.PyArray_DIMS(z), working_type(double_precision), False)
            elements.loss = <char*> cnp.PyArray_DATA(<cnp.ndarray> loss)
        if count <= SINGLE_TASK:
            with nogil:
                suspect = run_kernel(self, &elements, 0, count, double_precision, &total)
        else:
            run = elements_run(self, &elements, double_precision, (z, y, sample_weight, grad, hess, loss))
            total = self.sum_over_elements(run, count)
            suspect = run.suspect
        if suspect and first_improbable(y, 1.0) >= 0:
            return None
        if self.reduction != NONE:
            loss = total / denominator if self.reduction == MEAN else total
        return results_of(results, loss, grad, hess)


@cython.final
cdef class SigmoidRun:
    """The arrays of one call, contiguous and of one axis; does elements on demand."""

    cdef SigmoidKernel kernel
    cdef Elements elements
    cdef bint double_precision
    cdef tuple arrays
    cdef readonly bint suspect
    """Whether a target that has been done may lie outside [0, 1]."""

    def __init__(self, SigmoidKernel kernel, double scale, cnp.ndarray logits, cnp.ndarray target,
                 positive_weight=None, negative_weight=None, sample_weight=None, mask=None,
                 grad_output=None, loss=None, grad=None, hess=None):
        self.kernel = kernel
        self.elements.logits = <const char*> cnp.PyArray_DATA(logits)
        self.elements.logits_storage = storage_of(logits)
        self.elements.target = <const char*> cnp.PyArray_DATA(target)
        self.elements.target_storage = storage_of(target)
        self.elements.positive_weight = data_of(positive_weight)
        self.elements.negative_weight = data_of(negative_weight)
        self.elements.sample_weight = data_of(sample_weight)
        self.elements.mask = data_of(mask)
        self.elements.grad_output = data_of(grad_output)
        self.elements.loss = data_of(loss)
        self.elements.grad = data_of(grad)
        self.elements.hess = data_of(hess)
        self.elements.grad_storage = FLOAT32 if grad is None else storage_of(grad)
        self.elements.hess_storage = FLOAT32 if hess is None else storage_of(hess)
        self.elements.label_smoothing = kernel.label_smoothing
        self.elements.scale = scale
        self.double_precision = self.elements.logits_storage == FLOAT64
        self.arrays = (logits, target, positive_weight, negative_weight, sample_weight, mask, grad_output,
                       loss, grad, hess)

    def __call__(self, Py_ssize_t start, Py_ssize_t stop, double total=0.0):
        """Do the elements [start, stop); return total plus the sum of their losses."""
        cdef bint suspect
        with nogil:
            suspect = run_kernel(self.kernel, &self.elements, start, stop, self.double_precision,
                                 &total)
        if suspect:
            self.suspect = True
        return total


cdef SigmoidRun elements_run(SigmoidKernel kernel, const Elements* elements, bint double_precision,
                             tuple arrays):
    # Of elements that have been set.
    cdef SigmoidRun run = SigmoidRun.__new__(SigmoidRun)
    run.kernel = kernel
    run.elements = elements[0]
    run.double_precision = double_precision
    run.arrays = arrays
    return run


cdef bint run_kernel(SigmoidKernel kernel, const Elements* elements, Py_ssize_t start,
                     Py_ssize_t stop, bint double_precision, double* total) noexcept nogil:
    if kernel.focal:
        return run_sigmoid(elements, &kernel.sigmoid_focal, start, stop, double_precision, total)
    return run_sigmoid(elements, &kernel.bce, start, stop, double_precision, total)


cdef bint run_sigmoid(const Elements* elements, const sigmoid_loss* loss, Py_ssize_t start,
                      Py_ssize_t stop, bint double_precision, double* total) noexcept nogil:
    cdef DefaultEnvironment environment
    environment.enter()
    if double_precision:
        return run_derivatives(elements, loss, start, stop, <double> 0, total)
    return run_derivatives(elements, loss, start, stop, <float> 0, total)


cdef bint run_derivatives(const Elements* elements, const sigmoid_loss* loss, Py_ssize_t start,
                          Py_ssize_t stop, real tag, double* total) noexcept nogil:
    cdef ValueOnly value_only
    cdef WithGradient with_gradient
    cdef WithHessian with_hessian
    if elements.grad == NULL:
        return run_elements(elements, loss, start, stop, value_only, tag, total)
    if elements.hess == NULL:
        return run_elements(elements, loss, start, stop, with_gradient, tag, total)
    return run_elements(elements, loss, start, stop, with_hessian, tag, total)


def first_improbable(cnp.ndarray target, double largest):
    """Return the position of the first number outside [0, largest], or -1."""
    cdef int storage = storage_of(target)
    cdef Py_ssize_t count = cnp.PyArray_SIZE(target), position
    cdef const char* data = <const char*> cnp.PyArray_DATA(target)
    with nogil:
        if storage == FLOAT64:
            position = first_outside(data, storage, count, largest)
        else:
            position = first_outside(data, storage, count, <float> largest)
    return position
