# Calls of the softmax family, from Python to the kernels.

cdef class SoftmaxKernel:
    """What a loss of the softmax family is, as the kernels take it."""

    cdef int axis
    cdef int reduction
    cdef bint takes_probabilities
    cdef double largest_factor
    cdef Batch options
    cdef object class_weight   # (K,) float64 array, or None
    cdef dict soft_weights     # label_smoothing / K * class_weight, by (double precision, K)

    def __init__(self, str kind, *, class_weight=None, ignore_index=None, double label_smoothing=0.0,
                 double z_loss=0.0, double gamma=0.0, double logit_scale=1.0, double softcap=0.0,
                 str reduction="none", int axis=-1, double largest_factor=1.0, bint takes_probabilities=False):
        memset(&self.options, 0, sizeof(self.options))
        self.options.kind = KINDS[kind]
        self.options.label_smoothing = label_smoothing
        self.options.z_loss = z_loss
        self.options.gamma = gamma
        self.options.logit_scale = logit_scale
        self.options.softcap = softcap
        self.options.labels.ignores = ignore_index is not None
        self.options.labels.ignore_index = ignore_index or 0
        self.axis = axis
        self.reduction = REDUCTIONS[reduction]
        self.takes_probabilities = takes_probabilities
        self.largest_factor = largest_factor
        self.class_weight = class_weight
        self.soft_weights = {}
        if class_weight is not None:
            self.options.class_weight = <const double*> cnp.PyArray_DATA(<cnp.ndarray> class_weight)

    def evaluate(self, int results, logits, target, sample_weight=None, where=None, normalizer=None,
                 grad_output=None, out=None, loss_out=None, *, bint checked=False):
        """Return the loss, or a tuple of up to three results; None if an argument is wrong or unknown here.

        Known are NumPy's own arrays of real numbers and Python's numbers. Nothing has been written if None is
        returned. ``checked``: all but numbers has been checked, and outputs have any strides.
        """
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        cdef double denominator, scale = 1.0, total
        cdef tuple outputs = outputs_of(out, results)
        if type(target) is list and cnp.PyArray_CheckExact(logits):
            target = as_array(target)
        if grad_output is not None and is_number(grad_output, &scale):
            grad_output = None
        if not (run.begin(self, logits, self.axis, 1) and run.take_target(target)
                and run.take_vector(SAMPLE_WEIGHT, sample_weight) and run.take_mask(where)
                and run.take_vector(GRAD_OUTPUT, grad_output, True)
                and (grad_output is None or self.reduction == NONE) and outputs is not None
                and (loss_out is None or self.reduction == NONE)
                and self.find_denominator(run, target, sample_weight, normalizer, checked, &denominator)):
            return None
        run.batch.scale = scale / denominator
        run.choose_precision()
        if not run.has_labels() and not run.take_matrix(PROBABILITIES, target):
            return None
        grad = hess = loss = None
        if results > 1:
            grad = run.output(GRAD, outputs[0], checked)
        if results > 2 and grad is not None:
            hess = run.output(HESS, outputs[1], checked)
        if self.reduction == NONE:
            loss = run.output(LOSS, loss_out, checked)
        if ((grad is None) == (results > 1) or (hess is None) == (results > 2)
                or (loss is None) == (self.reduction == NONE)):
            return None
        run.set_soft_weight()
        total = run.total()
        if self.reduction != NONE:
            loss = total / denominator
        elif run.batch.classes == 0:  # only ignored rows, or probabilities of nothing
            loss[...] = 0
        return results_of(results, loss, grad, hess)

    cdef bint find_denominator(self, SoftmaxRun run, target, sample_weight, normalizer, bint checked,
                               double* denominator) except -1:
        # Looks at the numbers of all arguments; False, or an error if they have been checked, if one is wrong.
        cdef Py_ssize_t position
        if self.class_weight is not None and (
                cnp.PyArray_DIM(<cnp.ndarray> self.class_weight, 0) != run.batch.classes):
            return False
        run.total_weight = run.weigh_all()
        if run.has_bad_label:
            if checked:
                run.raise_bad_label(target)
            return False
        if not run.has_labels():
            position = first_bad_probability(target, sample_weight, run.axis)
            if position >= 0 and checked:
                _checks.bad_probability("target", target, np.unravel_index(position, target.shape),
                                        "be at least 0 and finite")
            if position >= 0:
                return False
        run.largest_weight = run.largest(SAMPLE_WEIGHT)
        if not run.largest_weight < INFINITY:
            if checked:
                raise_changed("sample_weight")
            return False
        return set_denominator(denominator, self.reduction, normalizer, run.total_weight, run.any_counts, checked)

    def weigh(self, logits, target, sample_weight=None):
        """Check labels or probabilities; return the sum of the weights of all rows, and whether one is not 0.

        Arrays have been checked but for their numbers. Of the logits nothing is read but the shape.
        """
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        cdef double denominator
        if not (run.begin(self, logits, self.axis, 1) and run.take_target(target)
                and run.take_vector(SAMPLE_WEIGHT, sample_weight)
                and self.find_denominator(run, target, sample_weight, 1.0, True, &denominator)):
            raise AssertionError("arrays that are not canonical")
        return run.total_weight, run.any_counts

    def apply(self, logits, out, bint wants_values, where=None, *, int class_axes=1, bint checked=False):
        """Return what one read of the logits makes of each of them, or of each row with ``wants_values``; or None.

        Classes lie along ``class_axes`` axes.
        """
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        if not (run.begin(self, logits, self.axis, class_axes) and run.take_mask(where)):
            return None
        run.batch.scale = 1.0
        result = run.output(LOSS if wants_values else GRAD, out, checked)
        if result is not None:
            run.total()
        return result

    def read_tokens(self, logits, target, *, bint checked=False):
        """Return (loss, log-sum-exp, argmax) of each row, from one read of the logits; or None."""
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        cdef double denominator
        if not (run.begin(self, logits, self.axis, 1) and run.take_target(target)
                and self.find_denominator(run, target, None, None, checked, &denominator)):
            return None
        run.batch.scale = 1.0
        loss = run.output(LOSS, None, True)
        lse = np.empty_like(loss)
        argmax = np.empty(loss.shape, np.int64)
        run.batch.log_sum_exp = data_of(lse)
        run.batch.argmax = <long long*> data_of(argmax)
        run.total()
        return loss, lse, argmax

    @property
    def ignore_index(self):
        """The label whose rows are ignored, or None."""
        return self.options.labels.ignore_index if self.options.labels.ignores else None

    cdef cnp.ndarray soft_weight(self, Py_ssize_t classes, bint double_precision):
        # What label smoothing gives each class, in the working precision.
        cdef tuple key = (double_precision, classes)
        cached = self.soft_weights.get(key)
        if cached is None:
            cached = np.empty(classes, np.float64 if double_precision else np.float32)
            if double_precision:
                spread_smoothing(&self.options, classes, <double*> cnp.PyArray_DATA(<cnp.ndarray> cached))
            else:
                spread_smoothing(&self.options, classes, <float*> cnp.PyArray_DATA(<cnp.ndarray> cached))
            self.soft_weights = {key: cached}  # a loss is used with one number of classes
        return cached


cdef object as_array(list given):
    # None if it is none, which the checks will say better.
    try:
        return np.asarray(given)
    except Exception:
        return None


cdef inline bint is_native(object array):
    return cnp.PyArray_CheckExact(array) and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray> array)


cdef inline bint is_one_block(cnp.ndarray array):
    # Whether it fills its memory without gaps, in either order.
    return cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_IS_F_CONTIGUOUS(array)


cdef double largest_number(cnp.ndarray array):
    return 1.7976931348623157e308 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64 else 3.4028234663852886e38


cdef Py_ssize_t first_bad_probability(target, sample_weight, int axis) except -2:
    # The position of a number that is negative or not finite, in a row that counts, or -1.
    cdef double largest = largest_number(<cnp.ndarray> target)
    cdef Py_ssize_t position
    cdef bint in_order = cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray> target)
    if cnp.PyArray_TYPE(<cnp.ndarray> target) == cnp.NPY_BOOL:
        return -1
    look = target if in_order else _layout.compact(target)
    position = first_improbable(look, largest)
    if position < 0 or (sample_weight is None and in_order):
        return position
    if sample_weight is not None:
        sample_weight = np.broadcast_to(sample_weight, target.shape[:axis] + target.shape[axis + 1:])
        sample_weight = np.expand_dims(sample_weight, axis)
    return first_improbable(target, largest, sample_weight)


cdef int join_axes(cnp.ndarray array, int first, int stop, bint within, Py_ssize_t* size, Py_ssize_t* stride):
    # How many axes those from `first` to `stop` are in memory, neighbours joined, or all others; 3 if more than two.
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


cdef bint set_matrix(Matrix* matrix, cnp.ndarray array, int axis, int class_axes, int storage):
    # Rows along all axes but those of the classes; False if these are more than two in memory, or the others than one.
    cdef Py_ssize_t size[2]
    cdef Py_ssize_t stride[2]
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(array), classes
    cdef int joined = join_axes(array, axis, axis + class_axes, True, &size[0], &stride[0])
    if joined > 1:
        return False
    classes = size[0] if joined else 1
    matrix.class_stride = stride[0] if classes != 1 else item
    joined = join_axes(array, axis, axis + class_axes, False, &size[0], &stride[0])
    if joined > 2:
        return False
    matrix.data = <char*> cnp.PyArray_DATA(array)
    matrix.storage = storage
    matrix.row_stride = stride[joined - 1] if joined else classes * item if matrix.class_stride == item else item
    matrix.inner = 1 if joined == 0 else size[joined - 1]
    matrix.outer_stride = stride[0] if joined == 2 else 0
    return True


cdef double largest_size(const Scalars* scalars, Py_ssize_t rows) noexcept nogil:
    # The largest of some numbers without their sign; NaN if one is not finite.
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


cdef void weigh_samples(const Batch* batch, Py_ssize_t rows, WeightSum* weights) noexcept nogil:
    # The sum of the weights of all rows, with the rounding errors beside it.
    cdef double numbers[BLOCK_ROWS]
    cdef wide_sum[double] sum
    cdef vec[double] zero = splat(0.0), x
    cdef mask[double] counts = less(zero, zero)
    cdef Py_ssize_t first = 0, count, i
    if batch.sample_weight.data == NULL:
        weights.total = rows
        weights.any_counts = rows > 0
        return
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


cdef void extent(cnp.ndarray array, char** low, char** high):
    # The memory that an array reaches over.
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


cdef object new_like(cnp.ndarray logits, int kind):
    # In the logits' memory order.
    if cnp.PyArray_IS_C_CONTIGUOUS(logits) or is_in_order(logits):
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(logits), cnp.PyArray_DIMS(logits), kind, False)
    if cnp.PyArray_IS_F_CONTIGUOUS(logits):
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(logits), cnp.PyArray_DIMS(logits), kind, True)
    return _layout.new_like(logits)


cdef bint is_in_order(cnp.ndarray array):
    # Whether its axes go from the widest stride to the narrowest, forwards.
    cdef Py_ssize_t least = cnp.PyArray_ITEMSIZE(array)
    cdef int i
    for i in range(cnp.PyArray_NDIM(array) - 1, -1, -1):
        if cnp.PyArray_DIM(array, i) > 1:
            if cnp.PyArray_STRIDE(array, i) < least:
                return False
            least = cnp.PyArray_STRIDE(array, i) * cnp.PyArray_DIM(array, i)
    return True


def plan_of(cnp.ndarray logits, int axis=-1):
    """Return the name of the plan that a softmax loss of native logits takes, None if they are gathered."""
    cdef Batch batch
    cdef int storage = known_storage(logits)
    memset(&batch, 0, sizeof(batch))
    axis = axis if axis >= 0 else axis + cnp.PyArray_NDIM(logits)
    if not is_native(logits) or storage == NO_STORAGE or not set_matrix(&batch.logits, logits, axis, 1, storage):
        return None
    batch.classes = cnp.PyArray_DIM(logits, axis)
    if storage == FLOAT64:
        return PLANS[plan_of_batch(&batch, <double> 0)]
    return PLANS[plan_of_batch(&batch, <float> 0)]
