# A loss or function of the softmax family with its options.
# Needs softmax.pxi, entries.pxi.

cdef class SoftmaxOptions:
    """A loss or function of the softmax family with its options, in the form that the kernels take."""

    cdef int axis
    cdef int reduction
    cdef bint takes_probabilities
    cdef double largest_factor
    cdef Batch options
    cdef object class_weight   # (K,) float64 array, or None
    cdef tuple soft_weights    # (double precision, K), and the label_smoothing / K * class_weight last computed for
    #                            them: replaced, never modified, under this kernel's lock

    def __init__(self, str kind, *, class_weight=None, ignore_index=None, str reduction="none", int axis=-1,
                 double largest_factor=1.0, bint takes_probabilities=False, **given):
        memset(&self.options, 0, sizeof(self.options))
        set_loss(&self.options, kind, given)
        self.options.labels.ignores = ignore_index is not None
        self.options.labels.ignore_index = ignore_index or 0
        self.axis = axis
        self.reduction = REDUCTIONS[reduction]
        self.takes_probabilities = takes_probabilities
        self.largest_factor = largest_factor
        self.class_weight = class_weight
        self.soft_weights = (None, None)
        if class_weight is not None:
            self.options.class_weight = <const double*> cnp.PyArray_DATA(<cnp.ndarray> class_weight)

    @property
    def ignore_index(self):
        """The label whose rows are ignored, or None."""
        return self.options.labels.ignore_index if self.options.labels.ignores else None

    cdef cnp.ndarray soft_weight(self, Py_ssize_t classes, bint double_precision):
        # The target mass that label smoothing gives each class, in the working precision. A loss is mostly used with
        # one number of classes. If threads use several, they never share an array that is still being filled.
        cdef DefaultEnvironment environment
        cdef tuple key = (double_precision, classes), kept
        environment.enter()
        with cython.critical_section(self):
            kept = self.soft_weights
        if kept[0] == key:
            return kept[1]
        made = np.empty(classes, np.float64 if double_precision else np.float32)
        if double_precision:
            spread_smoothing(&self.options, classes, <double*> cnp.PyArray_DATA(<cnp.ndarray> made))
        else:
            spread_smoothing(&self.options, classes, <float*> cnp.PyArray_DATA(<cnp.ndarray> made))
        kept = (key, made)
        with cython.critical_section(self):
            self.soft_weights = kept
        return made
