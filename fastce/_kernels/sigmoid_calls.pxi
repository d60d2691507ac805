# Calls of sigmoid losses, from Python to the kernels.
# Needs sigmoid.pxi, entries.pxi.

ELEMENTS_CHUNK = ELEMENTS
"""Splitting the elements at a multiple of this does not change a sum."""

cdef enum:
    NUMBERS = 10             # arrays of a call, the first members of Elements


cdef class SigmoidKernel:
    """A sigmoid loss with its options, in the form that the kernels take."""

    cdef bint focal
    cdef Bce bce
    cdef SigmoidFocal sigmoid_focal
    cdef double label_smoothing
    cdef double largest_factor
    cdef tuple element_weights     # of the positive and the negative part: arrays that broadcast to the logits, or None
    cdef int reduction

    def __init__(self, str kind, *, double label_smoothing=0.0, double gamma=0.0,
                 alpha=None, tuple element_weights=(None, None), double largest_factor=1.0,
                 str reduction="none"):
        self.focal = {"bce": False, "focal": True}[kind]
        self.label_smoothing = label_smoothing
        self.sigmoid_focal = sigmoid_focal_options(gamma, -1.0 if alpha is None else alpha)
        self.element_weights = element_weights
        self.largest_factor = largest_factor
        self.reduction = REDUCTIONS[reduction]

    def evaluate(self, int results, logits, target, sample_weight=None, where=None, normalizer=None,
                 grad_output=None, out=None, loss_out=None, *, tuple element_weights=None,
                 bint checked=False, bint fresh=False):
        """Return the loss, or a tuple of up to three results; None if an argument is wrong or of an unknown type.

        Known types are Python's numbers and NumPy's own arrays, of any numeric type and strides, provided that
        the logits are in C order. Nothing has been written if None is returned. ``checked``: all but the numbers
        in arrays has been checked, and outputs may have any strides; ``fresh``: they hold nothing yet.
        """
        cdef SigmoidRun run = SigmoidRun.__new__(SigmoidRun)
        cdef Elements* e = &run.elements
        cdef WeightSurvey weights, factors
        cdef DefaultEnvironment environment
        cdef double denominator, scale = 1.0, total
        cdef tuple outputs = outputs_of(out, results)
        environment.enter()
        if not run.begin(self, logits) or not (checked or in_order(&e.logits)) or target is None or outputs is None:
            return None
        if element_weights is None:
            element_weights = self.element_weights
        if grad_output is not None and is_number(grad_output, &scale):
            grad_output = None
        if not (run.take(&e.target, target, True) and run.take(&e.sample_weight, sample_weight)
                and run.take(&e.mask, where) and run.take(&e.grad_output, grad_output, True)
                and run.take(&e.positive_weight, element_weights[0])
                and run.take(&e.negative_weight, element_weights[1])
                and (e.mask.data == NULL or e.mask.storage == BOOL)
                and (e.grad_output.data == NULL or self.reduction == NONE)):
            return None

        weights = run.survey(&e.sample_weight, &e.mask)
        if not weights.all_finite or not set_denominator(&denominator, self.reduction, normalizer, weights.total,
                                                         weights.any_counts, checked):
            return None
        e.scale = scale / denominator
        factors.largest = 1.0
        if e.grad_output.data != NULL and e.grad_output.itemsize == 8:
            factors = run.survey(&e.grad_output, &e.loss)

        grad = hess = loss = None
        if results > 1:
            grad = run.output(&e.grad, outputs[0], run.kind, checked)
        if results > 2:
            hess = run.output(&e.hess, outputs[1], run.kind, checked)
        if self.reduction == NONE:
            loss = run.output(&e.loss, loss_out, working_type(run.double_precision), checked)
        elif loss_out is not None:
            return None
        if ((grad is None) == (results > 1) or (hess is None) == (results > 2)
                or (loss is None) == (self.reduction == NONE)):
            return None

        e.streams = not self.focal and run.count * (e.grad.itemsize if results > 1 else 0) >= STREAM_BYTES
        # The caller's outputs are written only if all targets are known to be in range.
        if run.given and not fresh and run.first_bad_target() >= 0:
            return None
        run.double_precision |= leaves_float32(e.scale, weights.largest, self.largest_factor, factors.largest)
        total = run.total()
        if run.maybe_bad_target and not (run.given and not fresh) and run.first_bad_target() >= 0:
            return None
        if self.reduction != NONE:
            loss = total / denominator
        return results_of(results, loss, grad, hess)


@cython.final
cdef class SigmoidRun:
    """The arrays of one call; computes elements on demand."""

    cdef SigmoidKernel kernel
    cdef Elements elements
    cdef Axis* axes       # of all arrays
    cdef list arrays      # keeps their memory alive
    cdef int ndim
    cdef cnp.npy_intp* shape
    cdef int kind         # number of the logits' type; their array may change during the call
    cdef Py_ssize_t count
    cdef double largest_target
    cdef bint double_targets  # whether targets are checked in float64
    cdef bint double_precision
    cdef bint given       # whether any output is the caller's
    cdef bint maybe_bad_target     # whether a target that has been processed may lie outside [0, 1]

    def __dealloc__(self):
        free(self.axes)

    cdef bint begin(self, SigmoidKernel kernel, object logits) except -1:
        if not cnp.PyArray_CheckExact(logits) or known_storage(<cnp.ndarray> logits) == NO_STORAGE:
            return False
        self.kernel = kernel
        self.set_shape(<cnp.ndarray> logits)
        self.elements.label_smoothing = kernel.label_smoothing
        self.kind = cnp.PyArray_TYPE(<cnp.ndarray> logits)
        self.double_precision = self.double_targets = self.kind == cnp.NPY_FLOAT64
        return self.take(&self.elements.logits, logits)

    cdef int set_shape(self, cnp.ndarray array) except -1:
        cdef Py_ssize_t axes, i
        self.ndim = cnp.PyArray_NDIM(array)
        self.count = cnp.PyArray_SIZE(array)
        self.arrays = []
        self.largest_target = 1.0
        axes = (NUMBERS + 1) * max_size(self.ndim, 1)
        self.axes = <Axis*> malloc(axes * sizeof(Axis) + self.ndim * sizeof(cnp.npy_intp))
        if self.axes == NULL:
            raise MemoryError("no memory for the shape of a call")
        self.shape = <cnp.npy_intp*> (self.axes + axes)
        for i in range(self.ndim):
            self.shape[i] = cnp.PyArray_DIM(array, i)
        return 0

    cdef bint take(self, Numbers* numbers, object given, bint whole=False) except -1:
        # Takes an argument, or None. With `whole`, it must have the logits' shape.
        if given is None:
            return True
        if isinstance(given, (float, int)):
            given = np.asarray(given)
        if not cnp.PyArray_CheckExact(given):
            return False
        if whole and not has_shape(<cnp.ndarray> given, self.ndim, self.shape):
            return False
        if not set_numbers(numbers, self.axes + len(self.arrays) * max_size(self.ndim, 1),
                           <cnp.ndarray> given, self.ndim, self.shape):
            return False
        self.arrays.append(given)
        return True

    cdef object output(self, Numbers* numbers, object given, int kind, bint checked):
        # The array to write to: a new one, or the given one; None if that does not fit.
        cdef Numbers* other = &self.elements.logits
        cdef cnp.ndarray array
        cdef int i
        if given is None:
            given = cnp.PyArray_EMPTY(self.ndim, self.shape, kind, False)
            self.take(numbers, given)
            return given
        self.given = True
        if not cnp.PyArray_CheckExact(given) or not self.take(numbers, given, True):
            return None
        if checked:
            return given
        array = given
        if not (cnp.PyArray_ISWRITEABLE(array) and cnp.PyArray_IS_C_CONTIGUOUS(array) and not numbers.swapped
                and (cnp.PyArray_TYPE(array) == kind
                     or (numbers.storage == FLOAT32 and numbers != &self.elements.loss
                         and other.itemsize == 2))):
            return None
        for i in range(NUMBERS):
            if other + i != numbers and other[i].data != NULL and not (
                    are_apart(numbers, other + i)
                    or (i == 0 and numbers != &self.elements.loss and numbers.data == other.data
                        and numbers.storage == other.storage and is_one_run(other))):
                return None
        return given

    cdef WeightSurvey survey(self, const Numbers* weight, const Numbers* mask):
        # Surveys the weights of the elements. Repeated weights are read once if that is enough.
        cdef WeightSurvey survey
        cdef const Numbers* numbers = mask if weight.data == NULL else weight
        cdef Numbers once = numbers[0]
        cdef Py_ssize_t repeats = 1
        cdef int i
        survey.total = self.count
        survey.largest = 1.0
        survey.all_finite = True
        survey.any_counts = self.count > 0
        if self.count == 0 or numbers.data == NULL:
            return survey
        if weight.data == NULL or mask.data == NULL:
            once.axis = self.axes + NUMBERS * max_size(self.ndim, 1)
            once.axes = 0
            for i in range(numbers.axes):
                if numbers.axis[i].stride == 0:
                    repeats *= numbers.axis[i].size
                else:
                    once.axis[once.axes] = numbers.axis[i]
                    once.axes += 1
            if once.axes == 0:
                once.axis[0].size = once.axes = 1
                once.axis[0].stride = 0
        with nogil:
            if weight.data == NULL:
                survey.total = count_used(&once, self.count // repeats)
                survey.any_counts = survey.total > 0.0
            else:
                survey_weights(&once, mask, self.count // repeats, &survey)
        survey.total *= repeats
        return survey

    cdef Py_ssize_t first_bad_target(self) except -2:
        # The position of the first target that counts and lies outside [0, largest_target], or -1.
        cdef double position
        if self.elements.target.storage == BOOL:
            return -1
        if self.count > SINGLE_TASK:
            position = np.min(parts_of(self.bad_target, self.count, 1, ELEMENTS))
            return -1 if position == INFINITY else <Py_ssize_t> position
        return self.first_bad(0, self.count)

    cdef Py_ssize_t first_bad(self, Py_ssize_t start, Py_ssize_t stop):
        cdef DefaultEnvironment environment
        cdef Py_ssize_t position
        with nogil:
            environment.enter()
            if self.double_targets:
                position = first_outside(&self.elements, start, stop, self.largest_target)
            else:
                position = first_outside(&self.elements, start, stop, <float> self.largest_target)
        return position

    def bad_target(self, Py_ssize_t start, Py_ssize_t stop):
        """Return the position of the first bad target of the elements [start, stop), or infinity."""
        cdef Py_ssize_t position = self.first_bad(start, stop)
        return <double> position if position >= 0 else INFINITY

    cdef double total(self) except? -1.0:
        if self.count > SINGLE_TASK:
            return sum_of_parts(self, self.count, 1, ELEMENTS)
        return self.sum_of(0, self.count)

    cdef double sum_of(self, Py_ssize_t start, Py_ssize_t stop):
        cdef bint maybe_bad_target
        cdef double total = 0.0
        with nogil:
            if self.kernel.focal:
                maybe_bad_target = run_sigmoid(&self.elements, &self.kernel.sigmoid_focal, start, stop,
                                               self.double_precision, &total)
            else:
                maybe_bad_target = run_sigmoid(&self.elements, &self.kernel.bce, start, stop, self.double_precision,
                                               &total)
        if maybe_bad_target:
            self.maybe_bad_target = True
        return total

    def __call__(self, Py_ssize_t start, Py_ssize_t stop):
        """Compute the elements [start, stop); return the sum of their losses."""
        return self.sum_of(start, stop)


cdef bint in_order(const Numbers* numbers) noexcept nogil:
    # Whether the axes are in C order, with or without gaps.
    cdef Py_ssize_t least = numbers.itemsize
    cdef int i
    for i in range(numbers.axes - 1, -1, -1):
        if numbers.axis[i].stride < least and numbers.axis[i].size > 1:
            return False
        least = numbers.axis[i].stride * numbers.axis[i].size
    return True


cdef Py_ssize_t reach(const Numbers* numbers, bint forwards) noexcept nogil:
    # How far an array extends from its first element in one direction, in bytes; forwards, this includes the item
    # itself.
    cdef Py_ssize_t span = numbers.itemsize if forwards else 0
    cdef int i
    for i in range(numbers.axes):
        if (numbers.axis[i].stride > 0) == forwards:
            span += numbers.axis[i].stride * (numbers.axis[i].size - 1)
    return span


cdef bint are_apart(const Numbers* a, const Numbers* b) noexcept nogil:
    return (a.data + reach(a, True) <= b.data + reach(b, False)
            or b.data + reach(b, True) <= a.data + reach(a, False))


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
    if elements.grad.data == NULL:
        return run_elements(elements, loss, start, stop, value_only, tag, total)
    if elements.hess.data == NULL:
        return run_elements(elements, loss, start, stop, with_gradient, tag, total)
    return run_elements(elements, loss, start, stop, with_hessian, tag, total)


def first_out_of_range(cnp.ndarray target, double largest, sample_weight=None, mask=None,
                       double_precision=None):
    """Return the position of the first number that counts and lies outside [0, largest], or -1."""
    cdef SigmoidRun run = SigmoidRun.__new__(SigmoidRun)
    run.set_shape(target)
    if not (run.take(&run.elements.target, target) and run.take(&run.elements.sample_weight, sample_weight)
            and run.take(&run.elements.mask, mask)):
        raise AssertionError(f"no kernel for {target.dtype}")
    run.largest_target = largest
    run.double_targets = run.elements.target.storage == FLOAT64 if double_precision is None else double_precision
    return run.first_bad_target()
