# Calls of softmax losses and functions, from Python to the kernels.
# Needs softmax_run.pxi.

cdef class SoftmaxKernel(SoftmaxOptions):
    """A loss or function of the softmax family, and all calls of it."""

    def evaluate(self, int results, logits, target, sample_weight=None, where=None, normalizer=None,
                 grad_output=None, out=None, loss_out=None, *, bint checked=False):
        """Return the loss, or a tuple of up to three results; None if an argument is wrong or of an unknown type.

        Known types are Python's numbers and NumPy's own arrays of real numbers. Nothing has been written if None is
        returned. ``checked``: all but the numbers in arrays has been checked, and outputs may have any strides.
        """
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        cdef DefaultEnvironment environment
        cdef double denominator, scale = 1.0, total
        cdef tuple outputs = outputs_of(out, results)
        environment.enter()
        if grad_output is not None and is_number(grad_output, &scale):
            grad_output = None
        if not (run.begin(self, logits, self.axis, 1) and run.take_target(target)
                and run.take_vector(SAMPLE_WEIGHT, sample_weight) and run.take_mask(where)
                and run.take_vector(GRAD_OUTPUT, grad_output, True)
                and (grad_output is None or self.reduction == NONE) and outputs is not None
                and (loss_out is None or self.reduction == NONE)
                and self.find_denominator(run, sample_weight, normalizer, checked, &denominator)):
            return None
        run.batch.scale = scale / denominator
        run.choose_precision()
        if not run.has_labels() and not run.take_matrix(PROBABILITIES, run.arrays[1]):
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
        if denominator != denominator and not run.any_counts:
            for array in (grad, hess):
                if array is not None:
                    array[...] = 0
            return results_of(results, NAN, grad, hess)
        run.set_soft_weight()
        total = run.total()
        if self.reduction != NONE:
            loss = total / denominator
        elif run.batch.classes == 0:  # only ignored rows, or empty probabilities
            loss[...] = 0
        return results_of(results, loss, grad, hess)

    cdef SoftmaxRun begin_shard(self, logits, teacher, sample_weight, where, grad_output):
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        if not (run.begin(self, logits, -1, 1) and run.take_target(teacher)
                and run.take_vector(SAMPLE_WEIGHT, sample_weight) and run.take_mask(where)
                and run.take_vector(GRAD_OUTPUT, grad_output)):
            raise AssertionError("checked arguments that the kernels do not take")
        run.batch.summaries_apart = run.rows
        return run

    def summarise(self, logits, teacher, where=None):
        """Return one shard's summary of the divergence of each row; divergence_shards.pxi names its numbers.

        All arguments have been checked, and the class axis is the last.
        """
        cdef SoftmaxRun run = self.begin_shard(logits, teacher, None, where, None)
        cdef Py_ssize_t row
        summaries = np.empty((SUMMARY, *(<object> run.new_rows(cnp.NPY_BOOL)).shape))
        run.batch.scale = 1.0
        run.batch.summaries = <double*> data_of(summaries)
        run.choose_precision()
        if not run.take_matrix(PROBABILITIES, run.arrays[1]):
            raise AssertionError("checked arguments that the kernels do not take")
        if run.batch.classes == 0:
            for row in range(run.rows):
                write_empty_summary(&run.batch, row)
        run.total()
        return summaries

    def of_shard(self, logits, teacher, cnp.ndarray whole_rows, double scale, *, sample_weight=None, where=None,
                 grad_output=None, grad=None, loss=None):
        """Write the losses of rows, or the gradient of one shard, given the merged summaries.

        All arguments have been checked, and the class axis is the last.
        """
        cdef SoftmaxRun run = self.begin_shard(logits, teacher, sample_weight, where, grad_output)
        run.batch.whole_rows = <const double*> data_of(whole_rows)
        run.batch.scale = scale
        run.largest_weight = run.largest(SAMPLE_WEIGHT)
        run.choose_precision()
        if not (run.take_matrix(PROBABILITIES, run.arrays[1])
                and (grad is None or run.output(GRAD, grad, True) is not None)
                and (loss is None or run.output(LOSS, loss, True) is not None)):
            raise AssertionError("checked arguments that the kernels do not take")
        run.total()

    cdef bint find_denominator(self, SoftmaxRun run, sample_weight, normalizer, bint checked,
                               double* denominator) except -1:
        # Checks the numbers of all arguments. If one is wrong, returns False, or raises if the rest has been checked.
        cdef Py_ssize_t position
        if self.class_weight is not None and (
                cnp.PyArray_DIM(<cnp.ndarray> self.class_weight, 0) != run.batch.classes):
            return False
        run.total_weight = run.weigh_all()
        if run.has_bad_label:
            if checked:
                run.raise_bad_label()
            return False
        if not run.has_labels() and run.batch.kind != DIVERGENCE:
            target = run.arrays[1]
            run.check_shape(PROBABILITIES, target)
            position = first_bad_probability(target, sample_weight, run.axis)
            if position >= 0 and checked:
                run.check_shape(PROBABILITIES, target)
                checks.bad_probability("target", target, np.unravel_index(position, target.shape),
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

        Arrays have been checked, except for their numbers. Only the shape of the logits is used; the class axis is
        the last.
        """
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        cdef DefaultEnvironment environment
        cdef double denominator
        environment.enter()
        if not (run.begin(self, logits, -1, 1) and run.take_target(target)
                and run.take_vector(SAMPLE_WEIGHT, sample_weight)
                and self.find_denominator(run, sample_weight, 1.0, True, &denominator)):
            raise AssertionError("checked arguments that the kernels do not take")
        return run.total_weight, run.any_counts

    def scale_overflows(self, logits):
        """Return whether scaling takes a finite logit out of the range of float32; the class axis is the last."""
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        if not run.begin(self, logits, -1, 1):
            raise AssertionError("checked arguments that the kernels do not take")
        return run.scale_overflows()

    def apply(self, logits, out, bint wants_values, where=None, *, int class_axes=1, bint checked=False):
        """Return one result per logit, or one per row with ``wants_values``, from one read of the logits; or None.

        Classes lie along ``class_axes`` axes.
        """
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        if not (run.begin(self, logits, self.axis, class_axes) and run.take_mask(where)):
            return None
        run.batch.scale = 1.0
        result = run.output(LOSS if wants_values else GRAD, out, checked)
        if result is not None:
            run.total()
        # Like NumPy's own functions, return a scalar.
        return result[()] if out is None and wants_values and run.batch_axes == 0 else result

    def read_tokens(self, logits, target, *, bint statistics=False, bint double_precision=False, bint checked=False):
        """Return (loss, log-sum-exp, argmax) of each row, from one read of the logits; or None.

        With ``statistics``, also an array of the statistics of each row that statistics.pxi names.
        """
        cdef SoftmaxRun run = SoftmaxRun.__new__(SoftmaxRun)
        cdef double denominator
        if not (run.begin(self, logits, self.axis, 1) and run.take_target(target)
                and self.find_denominator(run, None, None, checked, &denominator)):
            return None
        run.batch.scale = 1.0
        if double_precision:
            run.use_double_precision()
        else:
            run.choose_precision()
        loss = run.output(LOSS, run.new_rows(working_type(run.double_precision)), True)
        lse = run.new_rows(working_type(run.double_precision))
        argmax = run.new_rows(cnp.NPY_INT64)
        run.batch.log_sum_exp = data_of(lse)
        run.batch.argmax = <long long*> data_of(argmax)
        found = (loss, lse, argmax)
        if statistics:
            numbers = np.empty((STATISTICS, *(<object> loss).shape))
            run.batch.statistics = <double*> data_of(numbers)
            run.batch.statistics_apart = run.rows
            found += (numbers,)
        run.total()
        return found


def plan_of(cnp.ndarray logits, int axis=-1):
    """Return the name of the plan for a softmax loss of native logits, or None if these are gathered."""
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
