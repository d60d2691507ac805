# Rows whose classes are split over shards, from Python to the kernels.
# Needs divergence_shards.pxi, shards.pxi, softmax_calls.pxi.

cdef const double* doubles_of(array) except? NULL:
    return <const double*> data_of(array)


@cython.final
cdef class ShardRun:
    """Whole rows, described by their merged summary, and the classes of one shard; computes rows on demand.

    Statistics of rows, losses and log-sum-exps are contiguous arrays of float64. Losses, a gradient, or both may be
    requested; the gradient needs the shard's logits and its own maximum.
    """

    cdef Batch batch
    cdef Shard shard
    cdef tuple arrays  # keeps the memory alive

    def __init__(self, SoftmaxKernel kernel, double scale, Py_ssize_t classes, *, cnp.ndarray labels, maximum, others,
                 target_logit, soft_mass=None, soft_gap=None, kept=None, sample_weight=None, grad_output=None,
                 loss=None, log_sum_exp=None, own_maximum=None, Py_ssize_t first_class=0, logits=None, mask=None,
                 grad=None):
        memset(&self.shard, 0, sizeof(self.shard))
        self.batch = kernel.options
        self.batch.scale = scale
        self.batch.classes = classes
        set_labels(&self.batch.labels, labels)
        self.batch.sample_weight = scalars_of(sample_weight)
        self.batch.grad_output = scalars_of(grad_output)
        self.batch.loss = data_of(loss)
        self.batch.log_sum_exp = data_of(log_sum_exp)
        self.batch.logits = matrix_of(logits)
        self.batch.mask = matrix_of(mask)
        self.batch.grad = matrix_of(grad)
        self.batch.streams = (grad is not None and is_row(&self.batch.logits) and is_row(&self.batch.grad)
                              and cnp.PyArray_NBYTES(<cnp.ndarray> grad) >= STREAM_BYTES)
        if logits is None:
            self.batch.logits.storage = FLOAT64  # as the losses are
        else:
            self.shard.width = cnp.PyArray_DIM(<cnp.ndarray> logits, cnp.PyArray_NDIM(<cnp.ndarray> logits) - 1)
        soft_weight = None
        if kernel.options.label_smoothing != 0.0 and classes:
            soft_weight = kernel.soft_weight(classes, True)
            self.batch.soft_weight = self.shard.soft_weight = doubles_of(soft_weight)
        self.shard.maximum = doubles_of(maximum)
        self.shard.others = doubles_of(others)
        self.shard.target_logit = doubles_of(target_logit)
        self.shard.soft_mass = doubles_of(soft_mass)
        self.shard.soft_gap = doubles_of(soft_gap)
        self.shard.kept = doubles_of(kept)
        self.shard.own_maximum = doubles_of(own_maximum)
        self.shard.first_class = first_class
        self.arrays = (kernel, labels, maximum, others, target_logit, soft_mass, soft_gap, kept, sample_weight,
                       grad_output, loss, log_sum_exp, own_maximum, logits, mask, grad, soft_weight)

    def __call__(self, Py_ssize_t start, Py_ssize_t stop):
        """Compute the rows [start, stop)."""
        cdef DefaultEnvironment environment
        cdef int status
        with nogil:
            environment.enter()
            if self.batch.logits.storage == FLOAT64:
                status = run_shard(&self.batch, &self.shard, start, stop, <double> 0)
            else:
                status = run_shard(&self.batch, &self.shard, start, stop, <float> 0)
        check_status(status)
        return 0.0


def merge_divergences(cnp.ndarray a, cnp.ndarray b):
    """Merge two shards' summaries of the divergence of the same rows: contiguous float64 arrays (SUMMARY, rows)."""
    cdef DefaultEnvironment environment
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(a) // SUMMARY
    cdef const double* of_a = doubles_of(a)
    cdef const double* of_b = doubles_of(b)
    merged = np.empty_like(a)
    cdef double* to = <double*> data_of(merged)
    with nogil:
        environment.enter()
        merge_rows(of_a, of_b, rows, to)
    return merged
