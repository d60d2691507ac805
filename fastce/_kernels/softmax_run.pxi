# The arrays of a call of the softmax family: where the kernels find them, and how the others are gathered.
# Needs softmax_options.pxi, softmax_arrays.pxi, softmax_checks.pxi.

@cython.final
@cython.freelist(4)
cdef class SoftmaxRun:
    """The arrays of one call; computes rows on demand.

    The kernels use an array in place if its type is one of theirs and its batch axes join into at most two, or into
    one if it has one number per row. Any other array is gathered in blocks of rows, and outputs are written back.
    """

    cdef SoftmaxOptions kernel
    cdef Batch batch
    cdef Numbers gathered[ARRAYS]  # data NULL: used in place, or not given
    cdef int storage[ARRAYS]       # of the blocks that are gathered
    cdef Axis* axes                # of all arrays
    cdef list arrays               # keeps their memory alive; the first are the logits and the target
    cdef object soft_weight
    cdef cnp.npy_intp* shape       # of the logits
    cdef cnp.npy_intp* row_shape   # the same, the class axes last
    cdef int kind                  # number of the logits' type; their array may change during the call
    cdef int axis, class_axes, batch_axes
    cdef Py_ssize_t rows
    cdef bint double_precision
    cdef bint gathers              # whether blocks of any array have to be gathered
    cdef bint has_bad_label        # set by weigh(), as are the next ones
    cdef bint any_counts
    cdef double total_weight
    cdef double largest_weight     # absolute value of a sample_weight

    def __init__(self, SoftmaxOptions kernel, double scale, logits, labels, mask=None, grad=None, loss=None,
                 maximum=None, others=None, target_logit=None, soft_gap=None):
        """Take arrays that have been checked, the class axis last, and contiguous outputs of one number per row."""
        if not self.begin(kernel, logits, -1, 1):
            raise AssertionError(f"no kernel for {logits.dtype}")
        self.batch.scale = scale
        shape = tuple(logits.shape)[:logits.ndim - 1]
        for which, array in {LABELS: labels, LOSS: loss}.items():
            if which == LOSS:
                self.choose_precision()
            if array is not None:
                array = array.reshape(shape)
            if not self.take_vector(which, array):
                raise AssertionError(f"no kernel for {array.dtype}")
        for which, array in {MASK: mask, GRAD: grad}.items():
            if array is not None and not self.take_matrix(which, array):
                raise AssertionError(f"no kernel for {array.dtype}")
        self.set_soft_weight()
        self.batch.maximum = <double*> data_of(maximum)
        self.batch.others = <double*> data_of(others)
        self.batch.target_logit = <double*> data_of(target_logit)
        self.batch.soft_gap = <double*> data_of(soft_gap)
        self.arrays += [maximum, others, target_logit, soft_gap]

    def __dealloc__(self):
        free(self.axes)

    # The parts of a call. They return False, or None for an output, if an argument is wrong or has to be converted.

    cdef bint begin(self, SoftmaxOptions kernel, object logits, int axis, int class_axes) except -1:
        cdef cnp.ndarray z
        cdef int ndim, i, batch_axes = 0
        cdef Py_ssize_t size
        if not cnp.PyArray_CheckExact(logits) or known_storage(<cnp.ndarray> logits) == NO_STORAGE:
            return False
        z = logits
        ndim = cnp.PyArray_NDIM(z)
        axis = axis if axis >= 0 else axis + ndim
        if not 0 <= axis < ndim:
            return False
        self.kernel = kernel
        self.batch = kernel.options
        self.arrays = []
        self.axes = <Axis*> malloc(ndim * (ARRAYS * sizeof(Axis) + 2 * sizeof(cnp.npy_intp)))
        if self.axes == NULL:
            raise MemoryError("no memory for the shape of a call")
        self.shape = <cnp.npy_intp*> (self.axes + ARRAYS * ndim)
        self.row_shape = self.shape + ndim
        self.kind = cnp.PyArray_TYPE(z)
        self.axis = axis
        self.class_axes = class_axes
        self.batch_axes = ndim - class_axes
        self.largest_weight = 1.0
        self.rows = self.batch.classes = 1
        for i in range(ndim):
            self.shape[i] = size = cnp.PyArray_DIM(z, i)
            if axis <= i < axis + class_axes:
                self.row_shape[self.batch_axes + i - axis] = size
                self.batch.classes *= size
            else:
                self.row_shape[batch_axes] = size
                self.rows *= size
                batch_axes += 1
        self.double_precision = self.kind == cnp.NPY_FLOAT64
        return self.take_matrix(LOGITS, z)

    cdef bint take_target(self, object target) except -1:
        # Takes labels; or probabilities or a teacher's logits, which are placed once the precision is known.
        cdef cnp.ndarray y
        target = as_array(target)
        if target is None:
            return False
        y = target
        if self.batch.kind == DIVERGENCE:
            self.arrays.append(y)
            return self.has_logits_shape(y) and known_storage(y) != NO_STORAGE
        if cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(y)) and self.has_rows_shape(y):
            return self.take_vector(LABELS, y)
        if not (self.kernel.takes_probabilities and self.has_logits_shape(y)):
            return False
        self.arrays.append(y)
        return storage_of_numbers(y) != NO_STORAGE

    cdef bint take_mask(self, object given) except -1:
        # Takes an array of the logits' shape, or of one number per class along the last axis.
        cdef cnp.ndarray mask
        if given is None:
            return True
        if not cnp.PyArray_CheckExact(given) or cnp.PyArray_TYPE(<cnp.ndarray> given) != cnp.NPY_BOOL:
            return False
        mask = given
        if self.has_logits_shape(mask):
            return self.take_matrix(MASK, mask)
        if not (cnp.PyArray_NDIM(mask) == 1 and self.axis + 1 == self.batch_axes + self.class_axes
                and cnp.PyArray_DIM(mask, 0) == self.batch.classes):
            return False
        self.arrays.append(mask)
        self.batch.mask.data = <char*> cnp.PyArray_DATA(mask)
        self.batch.mask.class_stride = cnp.PyArray_STRIDE(mask, 0)
        self.batch.mask.inner = self.rows
        return True

    cdef bint take_matrix(self, int which, cnp.ndarray array) except -1:
        cdef int storage = FLOAT32 if which == MASK else known_storage(array)
        cdef Matrix* matrix = matrix_at(&self.batch, which)
        self.check_shape(which, array)
        self.arrays.append(array)
        if (cnp.PyArray_ISNOTSWAPPED(array) and storage != NO_STORAGE
                and set_matrix(matrix, array, self.axis, self.class_axes, storage)):
            if which == MASK or storage == FLOAT64 or not self.double_precision:
                if which == GRAD:
                    self.batch.streams = cnp.PyArray_NBYTES(array) >= STREAM_BYTES
                return True
        matrix.data = NULL
        return self.gather_matrix(which, array)

    cdef bint gather_matrix(self, int which, cnp.ndarray array) except -1:
        cdef int ndim = self.batch_axes + self.class_axes
        cdef Numbers* numbers = &self.gathered[which]
        if self.axis != self.batch_axes:
            array = np.moveaxis(array, range(self.axis, self.axis + self.class_axes), range(self.batch_axes, ndim))
        if not set_numbers(numbers, self.axes + which * ndim, array, ndim, self.row_shape):
            return False
        self.storage[which] = (
            BOOL if which == MASK
            else self.native_storage() if which == PROBABILITIES or self.double_precision
            else numbers.storage)
        self.gathers = True
        return True

    cdef bint take_vector(self, int which, object given, bint whole=False) except -1:
        # Takes an argument of one number per row, or None; with `whole`, it may not be broadcast.
        cdef Numbers* numbers = &self.gathered[which]
        cdef Py_ssize_t stride
        cdef bint in_place
        cdef Scalars* scalars
        if given is None:
            return True
        given = as_array(given)
        if given is None or (whole and not self.has_rows_shape(<cnp.ndarray> given)):
            return False
        if not set_numbers(numbers, self.axes + which * (self.batch_axes + self.class_axes), <cnp.ndarray> given,
                           self.batch_axes, self.row_shape):
            return False
        self.arrays.append(given)
        stride = numbers.axis.stride if self.rows != 1 else numbers.itemsize
        in_place = numbers.axes == 1 and not numbers.swapped
        if which == LABELS:
            self.storage[which] = numbers.storage
            self.batch.labels.itemsize = numbers.itemsize
            self.batch.labels.unsigned = cnp.PyTypeNum_ISUNSIGNED(cnp.PyArray_TYPE(<cnp.ndarray> given))
            self.batch.labels.stride = stride if in_place else numbers.itemsize
            self.batch.labels.data = numbers.data if in_place else NULL
        elif which == LOSS:
            self.storage[which] = self.native_storage()
            in_place = in_place and stride == numbers.itemsize and numbers.storage == self.native_storage()
            self.batch.loss = numbers.data if in_place else NULL
        else:
            in_place = in_place and (numbers.storage == FLOAT32 or numbers.storage == FLOAT64)
            scalars = self.scalars(which)
            self.storage[which] = scalars.storage = numbers.storage if in_place else FLOAT64
            scalars.stride = stride if in_place else sizeof(double)
            scalars.data = numbers.data if in_place else NULL
        if in_place:
            numbers.data = NULL
        self.gathers = self.gathers or not in_place
        return True

    cdef object output(self, int which, object given, bint checked):
        # The array to write to: a new one, or the given one.
        cdef int kind = working_type(self.kind == cnp.NPY_FLOAT64) if which == LOSS else self.kind
        if given is None:
            given = self.new_rows(kind) if which == LOSS else new_like(<cnp.ndarray> self.arrays[0], kind)
        elif not checked and not (
                can_be_written(given, kind, which != LOSS, self.arrays)
                and (self.has_rows_shape(given) if which == LOSS else self.has_logits_shape(given))):
            return None
        return given if (self.take_vector(which, given) if which == LOSS else self.take_matrix(which, given)) else None

    cdef cnp.ndarray new_rows(self, int kind):
        return cnp.PyArray_EMPTY(self.batch_axes, self.row_shape, kind, False)

    cdef inline Scalars* scalars(self, int which):
        return &self.batch.sample_weight if which == SAMPLE_WEIGHT else &self.batch.grad_output

    cdef inline bint has_logits_shape(self, cnp.ndarray array):
        return has_shape(array, self.batch_axes + self.class_axes, self.shape)

    cdef inline bint has_rows_shape(self, cnp.ndarray array):
        return has_shape(array, self.batch_axes, self.row_shape)

    cdef int check_shape(self, int which, cnp.ndarray array) except -1:
        # Whoever has the array may assign its shape while other code runs. New outputs have that of the logits.
        return 0 if self.has_logits_shape(array) else raise_changed("target" if which == PROBABILITIES else "logits")

    cdef int native_storage(self):
        return FLOAT64 if self.double_precision else FLOAT32

    cdef bint has_labels(self):
        return self.batch.labels.data != NULL or self.gathered[LABELS].data != NULL

    cdef int set_soft_weight(self) except -1:
        if self.has_labels() and self.batch.label_smoothing != 0.0 and self.batch.classes:
            self.soft_weight = self.kernel.soft_weight(self.batch.classes, self.double_precision)
            self.batch.soft_weight = cnp.PyArray_DATA(<cnp.ndarray> self.soft_weight)
        return 0

    # Checks before anything is written.

    cdef int use_double_precision(self) except -1:
        if not self.double_precision:
            self.double_precision = True
            self.batch.logits.data = NULL
            self.check_shape(LOGITS, <cnp.ndarray> self.arrays[0])
            self.gather_matrix(LOGITS, <cnp.ndarray> self.arrays[0])
        return 0

    cdef int choose_precision(self) except -1:
        # float64 if factors may leave the range of float32, if the scale takes a logit out of it, or if a teacher's
        # logits are float64.
        cdef double factor = 1.0
        if self.double_precision:
            return 0
        # Arrays of float32 or smaller are not examined: that would take a good part of the time of the loss itself.
        if self.batch.grad_output.storage == FLOAT64:
            factor = self.largest(GRAD_OUTPUT)
        if (leaves_float32(self.batch.scale, self.largest_weight, self.kernel.largest_factor, factor)
                or self.scale_overflows() or self.has_wide_teacher()):
            self.use_double_precision()
        return 0

    cdef bint has_wide_teacher(self):
        return self.batch.kind == DIVERGENCE and cnp.PyArray_ITEMSIZE(<cnp.ndarray> self.arrays[1]) == 8

    cdef int weigh_part(self, Py_ssize_t start, Py_ssize_t stop, WeightSum* sum, Py_ssize_t* position) noexcept nogil:
        # Checks labels and sums the weights of their rows, with the rounding errors carried along.
        cdef double labels[BUFFER]
        cdef double weights[BUFFER]
        cdef Batch batch
        cdef bint in_place = self.gathered[LABELS].data == NULL and self.gathered[SAMPLE_WEIGHT].data == NULL
        cdef WeightSum part
        cdef double error = 0.0, next_total, rounded
        cdef Py_ssize_t first = start, count
        sum.total = 0.0
        sum.any_counts = False
        if in_place and start == 0:
            return weigh_batch(&self.batch, stop, sum, position)
        batch = self.batch
        while first < stop:
            count = stop - first if in_place else min_size(stop - first, chunk_elements(0.0))
            batch.labels.data = self.vector_at(LABELS, self.batch.labels.data, batch.labels.stride, first, count,
                                               &labels[0])
            batch.sample_weight.data = self.vector_at(SAMPLE_WEIGHT, self.batch.sample_weight.data,
                                                      batch.sample_weight.stride, first, count, &weights[0])
            if weigh_batch(&batch, count, &part, position) != OK:
                position[0] += first
                return BAD_LABEL
            next_total = sum.total + part.total
            rounded = next_total - sum.total
            error += (sum.total - (next_total - rounded)) + (part.total - rounded)
            sum.total = next_total
            sum.any_counts |= part.any_counts
            first += count
        sum.total += error if isfinite(error) else 0.0
        return OK

    cdef char* vector_at(self, int which, char* data, Py_ssize_t stride, Py_ssize_t first, Py_ssize_t count,
                         double* buffer) noexcept nogil:
        if self.gathered[which].data == NULL:
            return data + first * stride if data != NULL else NULL
        self.gather(which, first, count, buffer)
        return <char*> buffer

    cpdef double weigh(self, Py_ssize_t start, Py_ssize_t stop):
        """Check the labels of the rows [start, stop); return the sum of the rows' weights."""
        cdef WeightSum sum
        cdef DefaultEnvironment environment
        cdef Py_ssize_t position
        cdef int status
        with nogil:
            environment.enter()
            status = self.weigh_part(start, stop, &sum, &position)
        if status != OK:
            self.has_bad_label = True
        elif sum.any_counts:
            self.any_counts = True
        return sum.total

    cdef double weigh_all(self) except? -1.0:
        if self.rows > SINGLE_TASK:
            return sum_of_parts(self.weigh, self.rows, 1, BLOCK_ROWS)
        return self.weigh(0, self.rows)

    cdef int raise_bad_label(self) except -1:
        cdef WeightSum sum
        cdef Py_ssize_t first, position
        for first in range(0, self.rows, SINGLE_TASK):
            if self.weigh_part(first, min_size(first + SINGLE_TASK, self.rows), &sum, &position) != OK:
                checks.bad_label(self.arrays[1], position, self.batch.classes, self.kernel.ignore_index)
        raise_changed("target")

    cpdef double largest_of(self, int which, Py_ssize_t start, Py_ssize_t stop):
        """Return the largest absolute sample_weight or grad_output of some rows; NaN if one is not finite."""
        cdef const Scalars* given = self.scalars(which)
        cdef double buffer[BUFFER]
        cdef Scalars scalars = given[0]
        cdef DefaultEnvironment environment
        cdef double largest = 0.0, part
        cdef Py_ssize_t first = start, count
        with nogil:
            environment.enter()
            while first < stop and largest == largest:
                count = stop - first
                if self.gathered[which].data != NULL:
                    count = min_size(count, chunk_elements(0.0))
                scalars.data = self.vector_at(which, given.data, given.stride, first, count, &buffer[0])
                part = largest_size(&scalars, count)
                largest = part if not part <= largest else largest
                first += count
        return largest

    cdef double largest(self, int which) except? -1.0:
        # 1 if there are none.
        cdef const Scalars* scalars = self.scalars(which)
        cdef Py_ssize_t rows = self.rows
        if scalars.data == NULL and self.gathered[which].data == NULL:
            return 1.0
        if scalars.data != NULL and scalars.stride == 0:
            rows = min_size(rows, 1)
        if rows <= SINGLE_TASK:
            return self.largest_of(which, 0, rows)
        return np.max(parts_of(partial(self.largest_of, which), rows, 1, 1))  # NaN if one of them is

    cpdef double overflows(self, Py_ssize_t start, Py_ssize_t stop):
        """Return 1.0 if the scale takes one of these finite logits out of the range of float32, else 0.0."""
        cdef char items[8 * ELEMENTS]
        cdef const Numbers* numbers = &self.gathered[FLAT]
        cdef bint in_place = is_one_run(numbers), found = False
        cdef char* at
        cdef Py_ssize_t first = start, count
        with nogil:
            while first < stop and not found:
                count = min_size(stop - first, SINGLE_TASK if in_place else ELEMENTS)
                at = numbers.data + first * numbers.itemsize if in_place else &items[0]
                if not in_place:
                    move_numbers(numbers, numbers.axes, first, count, at, False)
                found = scale_overflows(at, numbers.storage, count, self.batch.logit_scale, self.batch.softcap)
                first += count
        return 1.0 if found else 0.0

    cdef bint scale_overflows(self) except -1:
        # Whether float32 is too narrow for the scaled logits, for the scale itself, which the Hessian takes squared, or
        # for the cap.
        cdef cnp.ndarray z = self.arrays[0]
        cdef double bits = bits_from_one(self.batch.logit_scale), cap_bits = bits_from_one(self.batch.softcap)
        cdef Py_ssize_t count
        if cnp.PyArray_ITEMSIZE(z) == 8 or self.rows == 0 or self.batch.classes == 0:
            return False
        if bits + bits > FACTOR_BITS or bits + cap_bits > FACTOR_BITS:
            return True
        if fabs(self.batch.logit_scale) <= 1.0 or self.batch.softcap != 0.0:
            return False
        self.check_shape(LOGITS, z)
        if not cnp.PyArray_IS_C_CONTIGUOUS(z):
            z = layout.compact(z)
        count = cnp.PyArray_SIZE(z)
        set_numbers(&self.gathered[FLAT], self.axes + FLAT * (self.batch_axes + self.class_axes), z,
                    cnp.PyArray_NDIM(z), cnp.PyArray_DIMS(z))
        if count <= SINGLE_TASK:
            return self.overflows(0, count) > 0.0
        return sum_of_parts(self.overflows, count, 1, 1) > 0.0

    # Rows.

    def __call__(self, Py_ssize_t start, Py_ssize_t stop, double total=0.0):
        """Compute the rows [start, stop); return total plus the sum of their losses."""
        return self.do_rows(start, stop, total)

    cdef double do_rows(self, Py_ssize_t start, Py_ssize_t stop, double total) except? -1.0:
        cdef int status
        with nogil:
            status = self.run(start, stop, &total)
        check_status(status)
        return total

    cpdef double total(self) except? -1.0:
        """Compute all rows, in tasks; return the sum of their losses."""
        cdef Py_ssize_t group = 1
        cdef bint writes_losses = self.batch.loss != NULL or self.gathered[LOSS].data != NULL
        if self.rows == 0 or (self.batch.classes == 0 and not writes_losses):
            return 0.0
        if self.rows * self.batch.classes <= SINGLE_TASK:
            return self.do_rows(0, self.rows, 0.0)
        # Splitting between blocks of the kernels does not change a sum.
        if is_plane(&self.batch.logits) or self.batch.classes <= GATHERED_ELEMENTS // BLOCK_ROWS:
            group = BLOCK_ROWS
        return sum_of_parts(self, self.rows, self.batch.classes, group)

    cdef int run(self, Py_ssize_t start, Py_ssize_t stop, double* total) noexcept nogil:
        cdef Batch batch
        cdef char* block[ARRAYS]
        cdef Py_ssize_t size[ARRAYS]
        cdef Py_ssize_t step, first = start, last, all_bytes = 64, classes = self.batch.classes
        cdef int which, status = OK
        cdef char* memory
        if is_out_of_memory(classes):
            return NO_MEMORY
        if not self.gathers:
            return run_softmax(&self.batch, start, stop, self.double_precision, total)
        batch = self.batch
        step = max_size(GATHERED_ELEMENTS // max_size(classes, 1), 1)
        if step >= BLOCK_ROWS:
            step = step // BLOCK_ROWS * BLOCK_ROWS
        step = min_size(step, stop - start)
        for which in range(FLAT):
            if self.gathered[which].data != NULL:
                size[which] = block_size(self.storage[which]) * (classes if which < LABELS else 1)
                all_bytes += size[which] * step + 64
        memory = <char*> malloc(all_bytes)
        if memory == NULL:
            return NO_MEMORY
        all_bytes = 64 - <Py_ssize_t> (<size_t> memory % 64)
        for which in range(FLAT):
            if self.gathered[which].data != NULL:
                block[which] = memory + all_bytes
                all_bytes += (size[which] * step + 63) // 64 * 64
        while first < stop and status == OK:
            last = min_size(first + step, stop)
            for which in range(FLAT):
                if self.gathered[which].data != NULL:
                    if not is_output(which):
                        self.gather(which, self.first_number(which, first), self.first_number(which, last - first),
                                    block[which])
                    point_at(&batch, which, block[which] - first * size[which], self.storage[which])
            status = run_softmax(&batch, first, last, self.double_precision, total)
            if status == OK:
                for which in range(FLAT):
                    if self.gathered[which].data != NULL and is_output(which):
                        self.write_back(which, self.first_number(which, first), self.first_number(which, last - first),
                                        block[which])
            first = last
        free(memory)
        return status

    cdef inline Py_ssize_t first_number(self, int which, Py_ssize_t row) noexcept nogil:
        return row * self.batch.classes if which < LABELS else row

    cdef void gather(self, int which, Py_ssize_t first, Py_ssize_t count, void* to) noexcept nogil:
        cdef const Numbers* numbers = &self.gathered[which]
        if count == 0:
            return
        if self.storage[which] == numbers.storage:
            move_numbers(numbers, numbers.axes, first, count, <char*> to, False)
        elif self.storage[which] == FLOAT64:
            widen_all(numbers, first, count, <double*> to)
        else:
            widen_all(numbers, first, count, <float*> to)

    cdef void write_back(self, int which, Py_ssize_t first, Py_ssize_t count, void* block) noexcept nogil:
        cdef const Numbers* numbers = &self.gathered[which]
        if count == 0:
            return
        if self.storage[which] == numbers.storage:
            move_numbers(numbers, numbers.axes, first, count, <char*> block, True)
        elif self.storage[which] == FLOAT64:
            narrow_all(numbers, first, count, <const double*> block)
        else:
            narrow_all(numbers, first, count, <const float*> block)
