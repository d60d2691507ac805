# Calls of the softmax family, from Python to the kernels.

cdef enum:
    ROWS_AT_ONCE = 1 << 23  # labels and weights that are looked at without a look for an interrupt: 10 milliseconds


cdef class SoftmaxKernel:
    """What a loss of the softmax family is, as the kernels take it."""

    cdef int axis
    cdef int reduction
    cdef bint takes_probabilities
    cdef double largest_factor
    cdef Batch options
    cdef object class_weight   # (K,) float64 array, or None
    cdef object sum_over_rows  # sum_over_rows(work, rows, classes, are_planes) runs what is more than a single task
    cdef object first_outside  # first_outside(array, dtype, largest) looks at numbers from several threads
    cdef dict soft_weights     # label_smoothing / K * class_weight, by (double precision, K)

    def __init__(self, str kind, *, class_weight=None, ignore_index=None, double label_smoothing=0.0,
                 double z_loss=0.0, double gamma=0.0, double logit_scale=1.0, double softcap=0.0,
                 str reduction="none", int axis=-1, double largest_factor=1.0, bint takes_probabilities=False,
                 sum_over_rows=None, first_outside=None):
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
        self.sum_over_rows = sum_over_rows
        self.first_outside = first_outside
        self.soft_weights = {}
        if class_weight is not None:
            self.options.class_weight = <const double*> cnp.PyArray_DATA(<cnp.ndarray> class_weight)

    def evaluate(self, int results, logits, target, sample_weight=None, where=None, normalizer=None,
                 grad_output=None, out=None, loss_out=None):
        """Return the loss, or a tuple of up to three results; None if an argument is wrong or unknown here.

        Known are NumPy's own arrays of native numbers whose batch axes are at most two in memory, and Python's
        numbers. Nothing has been written if None is returned.
        """
        cdef Batch batch = self.options
        cdef cnp.ndarray z, y
        cdef Py_ssize_t rows, position = -1
        cdef double denominator = 1.0, scale = 1.0, total = 0.0, bits, largest = 1.0
        cdef bint double_precision, has_labels_ = True
        cdef WeightSum weights
        cdef int storage, axis, status = OK
        if type(target) is list and cnp.PyArray_CheckExact(logits):
            target = as_array(target)
        if not (is_native(logits) and is_native(target)):
            return None
        z = logits
        y = target
        storage = known_storage(z)
        axis = self.axis if self.axis >= 0 else self.axis + cnp.PyArray_NDIM(z)
        if storage == NO_STORAGE or not 0 <= axis < cnp.PyArray_NDIM(z) or cnp.PyArray_SIZE(z) == 0:
            return None
        double_precision = storage == FLOAT64
        batch.classes = cnp.PyArray_DIM(z, axis)
        rows = cnp.PyArray_SIZE(z) // batch.classes
        if rows > ROWS_AT_ONCE or not set_matrix(&batch.logits, z, axis, storage):
            return None
        if cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(y)) and has_shape_without(y, z, axis):
            batch.labels.itemsize = <int> cnp.PyArray_ITEMSIZE(y)
            batch.labels.unsigned = cnp.PyTypeNum_ISUNSIGNED(cnp.PyArray_TYPE(y))
            if not set_vector(y, &batch.labels.data, &batch.labels.stride):
                return None
        elif (self.takes_probabilities and known_storage(y) != NO_STORAGE and have_one_shape(y, z)
                and is_one_block(y) and set_matrix(&batch.probabilities, y, axis, known_storage(y))):
            has_labels_ = False
        else:
            return None
        if (self.class_weight is not None
                and cnp.PyArray_DIM(<cnp.ndarray> self.class_weight, 0) != batch.classes):
            return None
        if sample_weight is not None and not set_scalars(&batch.sample_weight, sample_weight, z, axis):
            return None
        if where is not None and not set_mask(&batch.mask, where, z, axis, rows):
            return None
        if grad_output is not None and not is_number(grad_output, &scale):
            if self.reduction != NONE or not set_scalars(&batch.grad_output, grad_output, z, axis):
                return None
        if not isfinite(scale):
            return None

        # What is checked before anything is written.
        if has_labels_:
            with nogil:
                status = weigh_labels(&batch, rows, &weights, &position)
        else:
            weights.total = rows
            weights.any_counts = True
            if sample_weight is not None:
                with nogil:
                    weigh_rows(&batch, rows, &weights)
            if cnp.PyArray_SIZE(y) > SINGLE_TASK and self.first_outside is not None:
                if self.first_outside(y, y.dtype, largest_number(y)) is not None:
                    return None
            elif first_improbable(y, largest_number(y)) >= 0:
                return None
        if status == OK and sample_weight is not None:
            largest = largest_size(&batch.sample_weight, rows)
        if (status != OK or not largest < INFINITY
                or (fabs(batch.logit_scale) > 1.0 and batch.softcap == 0.0 and storage != FLOAT64
                    and (not is_one_block(z) or scale_overflows(batch.logits.data, storage, cnp.PyArray_SIZE(z),
                                                                batch.logit_scale, batch.softcap)))):
            return None
        if self.reduction == MEAN:
            denominator = weights.total if weights.any_counts and weights.total != INFINITY else NAN
        if normalizer is not None:
            if not is_number(normalizer, &total) or not 0.0 < total < INFINITY:
                return None
            if self.reduction == MEAN:
                denominator = total
        if not denominator > 0.0:
            return None
        batch.scale = scale / denominator
        bits = bits_from_one(batch.scale) + bits_from_one(largest) + bits_from_one(self.largest_factor)
        if batch.grad_output.data != NULL:
            bits += bits_from_one(largest_size(&batch.grad_output, rows))
        if not bits <= FACTOR_BITS and not double_precision:
            return None

        # Outputs.
        cdef list inputs = [y, sample_weight, where, grad_output]
        grad = hess = loss = None
        if results > 2 and out is not None:
            if not isinstance(out, tuple) or len(<tuple> out) != 2:
                return None
            grad, hess = out
        elif isinstance(out, tuple):
            if len(<tuple> out) != 1:
                return None
            grad = out[0]
        else:
            grad = out
        if results > 1:
            grad = output_like(grad, z, inputs)
            if grad is None or not set_matrix(&batch.grad, grad, axis, known_storage(grad)):
                return None
            inputs.append(grad)
            batch.streams = cnp.PyArray_NBYTES(<cnp.ndarray> grad) >= STREAM_BYTES
        if results > 2:
            hess = output_like(hess, z, inputs)
            if hess is None or (grad is logits and hess is logits):
                return None
            if not set_matrix(&batch.hess, hess, axis, known_storage(hess)):
                return None
            inputs.append(hess)
        if self.reduction == NONE:
            loss = loss_array(loss_out, z, axis, working_type(double_precision), inputs)
            if loss is None:
                return None
            batch.loss = <char*> cnp.PyArray_DATA(<cnp.ndarray> loss)
        elif loss_out is not None:
            return None
        soft_weight = None
        if has_labels_ and batch.label_smoothing != 0.0:
            soft_weight = self.soft_weight(batch.classes, double_precision)
            batch.soft_weight = cnp.PyArray_DATA(<cnp.ndarray> soft_weight)

        if cnp.PyArray_SIZE(z) <= SINGLE_TASK:
            total = 0.0
            with nogil:
                status = run_softmax(&batch, 0, rows, double_precision, &total)
            check_status(status)
        else:
            total = self.sum_over_rows(run_of(&batch, double_precision, (self, z, inputs, soft_weight, loss)), rows,
                                       batch.classes, is_plane(&batch.logits))
        if self.reduction != NONE:
            loss = total / denominator
        return results_of(results, loss, grad, hess)

    def apply(self, logits, out, bint wants_values):
        """Return what one read of the logits makes of each of them, or of each row with ``wants_values``; or None."""
        cdef Batch batch = self.options
        cdef cnp.ndarray z
        cdef Py_ssize_t rows
        cdef double total = 0.0
        cdef int storage, axis
        if not is_native(logits):
            return None
        z = logits
        storage = known_storage(z)
        axis = self.axis if self.axis >= 0 else self.axis + cnp.PyArray_NDIM(z)
        if (storage == NO_STORAGE or not 0 <= axis < cnp.PyArray_NDIM(z) or not 0 < cnp.PyArray_SIZE(z) <= SINGLE_TASK
                or not set_matrix(&batch.logits, z, axis, storage)):
            return None
        batch.classes = cnp.PyArray_DIM(z, axis)
        batch.scale = 1.0
        rows = cnp.PyArray_SIZE(z) // batch.classes
        if wants_values:
            result = loss_array(out, z, axis, working_type(storage == FLOAT64), [])
            if result is None or cnp.PyArray_NDIM(<cnp.ndarray> result) == 0:
                return None
            batch.loss = <char*> cnp.PyArray_DATA(<cnp.ndarray> result)
        else:
            result = output_like(out, z, [])
            if result is None or not set_matrix(&batch.grad, result, axis, known_storage(result)):
                return None
        with nogil:
            status = run_softmax(&batch, 0, rows, storage == FLOAT64, &total)
        check_status(status)
        return result

    def read_tokens(self, logits, target):
        """Return (loss, log-sum-exp, argmax) of each row, from one read of the logits; or None."""
        cdef Batch batch = self.options
        cdef cnp.ndarray z, y
        cdef Py_ssize_t rows, position
        cdef double total = 0.0
        cdef WeightSum weights
        cdef int storage, axis
        if not (is_native(logits) and is_native(target)):
            return None
        z = logits
        y = target
        storage = known_storage(z)
        axis = self.axis if self.axis >= 0 else self.axis + cnp.PyArray_NDIM(z)
        if (storage == NO_STORAGE or not 0 <= axis < cnp.PyArray_NDIM(z) or not 0 < cnp.PyArray_SIZE(z) <= SINGLE_TASK
                or not cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(y)) or not has_shape_without(y, z, axis)
                or cnp.PyArray_NDIM(z) < 2 or not set_matrix(&batch.logits, z, axis, storage)
                or not set_vector(y, &batch.labels.data, &batch.labels.stride)):
            return None
        batch.labels.itemsize = <int> cnp.PyArray_ITEMSIZE(y)
        batch.labels.unsigned = cnp.PyTypeNum_ISUNSIGNED(cnp.PyArray_TYPE(y))
        batch.classes = cnp.PyArray_DIM(z, axis)
        batch.scale = 1.0
        rows = cnp.PyArray_SIZE(z) // batch.classes
        if weigh_labels(&batch, rows, &weights, &position) != OK:
            return None
        loss = loss_array(None, z, axis, working_type(storage == FLOAT64), [])
        lse = loss_array(None, z, axis, working_type(storage == FLOAT64), [])
        argmax = loss_array(None, z, axis, cnp.NPY_INT64, [])
        batch.loss = <char*> cnp.PyArray_DATA(<cnp.ndarray> loss)
        batch.log_sum_exp = <char*> cnp.PyArray_DATA(<cnp.ndarray> lse)
        batch.argmax = <long long*> cnp.PyArray_DATA(<cnp.ndarray> argmax)
        with nogil:
            status = run_softmax(&batch, 0, rows, storage == FLOAT64, &total)
        check_status(status)
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


cdef inline bint have_one_shape(cnp.ndarray a, cnp.ndarray b):
    return cnp.PyArray_NDIM(a) == cnp.PyArray_NDIM(b) and is_same_shape(a, b, cnp.PyArray_NDIM(a))


cdef double largest_number(cnp.ndarray array):
    return 1.7976931348623157e308 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64 else 3.4028234663852886e38


cdef int join_axes(cnp.ndarray array, int but, Py_ssize_t* size, Py_ssize_t* stride):
    # How many axes there are in memory, neighbours joined, but for one; 3 if there are more than two.
    cdef int joined = 0, i
    cdef Py_ssize_t length, step
    for i in range(cnp.PyArray_NDIM(array)):
        length = cnp.PyArray_DIM(array, i)
        step = cnp.PyArray_STRIDE(array, i)
        if i == but or length == 1:
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


cdef bint set_matrix(Matrix* matrix, cnp.ndarray array, int axis, int storage):
    # Rows along all axes but that of the classes; False if these are more than two in memory.
    cdef Py_ssize_t size[2]
    cdef Py_ssize_t stride[2]
    cdef int joined = join_axes(array, axis, &size[0], &stride[0])
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(array), classes = cnp.PyArray_DIM(array, axis)
    if joined > 2:
        return False
    matrix.data = <char*> cnp.PyArray_DATA(array)
    matrix.storage = storage
    matrix.class_stride = item if classes == 1 else cnp.PyArray_STRIDE(array, axis)
    matrix.row_stride = stride[joined - 1] if joined else classes * item if matrix.class_stride == item else item
    matrix.inner = 1 if joined == 0 else size[joined - 1]
    matrix.outer_stride = stride[0] if joined == 2 else 0
    return True


cdef bint set_vector(cnp.ndarray array, char** data, Py_ssize_t* stride):
    # One number per row.
    cdef Py_ssize_t size[2]
    cdef Py_ssize_t strides[2]
    cdef int joined = join_axes(array, -1, &size[0], &strides[0])
    if joined > 1:
        return False
    data[0] = <char*> cnp.PyArray_DATA(array)
    stride[0] = strides[0] if joined else cnp.PyArray_ITEMSIZE(array)
    return True


cdef bint set_scalars(Scalars* scalars, object array, cnp.ndarray logits, int axis):
    cdef int kind
    if not is_native(array) or not has_shape_without(<cnp.ndarray> array, logits, axis):
        return False
    kind = cnp.PyArray_TYPE(<cnp.ndarray> array)
    scalars.storage = FLOAT64 if kind == cnp.NPY_FLOAT64 else FLOAT32
    return ((kind == cnp.NPY_FLOAT64 or kind == cnp.NPY_FLOAT32)
            and set_vector(<cnp.ndarray> array, &scalars.data, &scalars.stride))


cdef bint set_mask(Matrix* mask, object array, cnp.ndarray logits, int axis, Py_ssize_t rows):
    # Of the logits' shape, or one for each class of the last axis.
    cdef cnp.ndarray given
    if not cnp.PyArray_CheckExact(array) or cnp.PyArray_TYPE(<cnp.ndarray> array) != cnp.NPY_BOOL:
        return False
    given = array
    if have_one_shape(given, logits):
        return set_matrix(mask, given, axis, FLOAT32)
    if not (cnp.PyArray_NDIM(given) == 1 and axis == cnp.PyArray_NDIM(logits) - 1
            and cnp.PyArray_DIM(given, 0) == cnp.PyArray_DIM(logits, axis)):
        return False
    mask.data = <char*> cnp.PyArray_DATA(given)
    mask.storage = FLOAT32
    mask.class_stride = cnp.PyArray_STRIDE(given, 0)
    mask.row_stride = 0
    mask.inner = rows
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


cdef void weigh_rows(const Batch* batch, Py_ssize_t rows, WeightSum* weights) noexcept nogil:
    # The sum of the weights of all rows, with the rounding errors beside it.
    cdef double numbers[BLOCK_ROWS]
    cdef wide_sum[double] sum
    cdef vec[double] zero = splat(0.0), x
    cdef mask[double] counts = less(zero, zero)
    cdef Py_ssize_t first = 0, count, i
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


cdef bint is_apart_from_all(cnp.ndarray array, list others):
    for other in others:
        if cnp.PyArray_Check(other) and not reach_apart(array, <cnp.ndarray> other):
            return False
    return True


cdef object output_like(object given, cnp.ndarray logits, list others):
    # A new array like the logits, or the one given if it can be written as it is; None if it cannot.
    cdef cnp.ndarray array
    cdef int kind = cnp.PyArray_TYPE(logits)
    if given is None:
        if cnp.PyArray_IS_C_CONTIGUOUS(logits) or not cnp.PyArray_IS_F_CONTIGUOUS(logits):
            if not cnp.PyArray_IS_C_CONTIGUOUS(logits) and not is_in_order(logits):
                return None
            return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(logits), cnp.PyArray_DIMS(logits), kind, False)
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(logits), cnp.PyArray_DIMS(logits), kind, True)
    if not (is_native(given) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> given)
            and is_one_block(<cnp.ndarray> given) and have_one_shape(<cnp.ndarray> given, logits)):
        return None
    array = given
    if not (cnp.PyArray_TYPE(array) == kind
            or (cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32 and cnp.PyArray_ITEMSIZE(logits) == 2)):
        return None
    if not is_apart_from_all(array, others):
        return None
    if not reach_apart(array, logits) and not (
            cnp.PyArray_DATA(array) == cnp.PyArray_DATA(logits) and cnp.PyArray_TYPE(array) == kind
            and cnp.PyArray_IS_C_CONTIGUOUS(array) == cnp.PyArray_IS_C_CONTIGUOUS(logits)
            and cnp.PyArray_IS_F_CONTIGUOUS(array) == cnp.PyArray_IS_F_CONTIGUOUS(logits)):
        return None
    return given


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


cdef object loss_array(object given, cnp.ndarray logits, int axis, int kind, list others):
    # Where single losses go, contiguous.
    cdef cnp.npy_intp shape[64]
    cdef int i
    if given is None:
        for i in range(cnp.PyArray_NDIM(logits) - 1):
            shape[i] = cnp.PyArray_DIM(logits, i if i < axis else i + 1)
        return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(logits) - 1, &shape[0], kind, False)
    if not (is_native(given) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> given)
            and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray> given)
            and cnp.PyArray_TYPE(<cnp.ndarray> given) == kind
            and has_shape_without(<cnp.ndarray> given, logits, axis)
            and reach_apart(<cnp.ndarray> given, logits)
            and is_apart_from_all(<cnp.ndarray> given, others)):
        return None
    return given


def plan_of(cnp.ndarray logits, int axis=-1):
    """Return the name of the plan that a softmax loss of native logits takes, None if Python lays them out first."""
    cdef Batch batch
    cdef int storage = known_storage(logits)
    memset(&batch, 0, sizeof(batch))
    axis = axis if axis >= 0 else axis + cnp.PyArray_NDIM(logits)
    if not is_native(logits) or storage == NO_STORAGE or not set_matrix(&batch.logits, logits, axis, storage):
        return None
    batch.classes = cnp.PyArray_DIM(logits, axis)
    if storage == FLOAT64:
        return PLANS[plan_of_batch(&batch, <double> 0)]
    return PLANS[plan_of_batch(&batch, <float> 0)]
