"""The C interface: ``cimport fastce._core``.

These functions need no GIL and no Python object. They run on the instruction set that was chosen when
fastce was imported, in the calling thread alone, and give what the Python losses of the same names give.
The signatures are frozen: what is new gets a new name (tests/kernels/c_interface.txt).

Each function is there for float32 and for float64 logits. All that has one number per row or per element
(weights, gradient, losses) has the logits' type; what belongs to the loss (options, class weights) is
double. Strides are in bytes. A pointer marked "or NULL" may be NULL: no weights are ones, an output that is
not given is not written. `grad` may be `logits`, with its strides; outputs overlap nothing else.

`total` gets the sum of the weighted losses of all rows or elements, accumulated in double; where `loss` is
given, of the losses as written there. The gradient is that of grad_scale * total: 1 / rows makes it that
of the mean, where nothing is weighted or ignored.

The result is a status. Unless it is FASTCE_OK, nothing has been written, or another thread has changed a
label during the call. Labels, targets and options are checked; the numbers behind other pointers are not.
"""

from libc.stdint cimport int64_t

cdef enum:
    FASTCE_OK = 0
    FASTCE_BAD_LABEL = 1     # a label is outside [0, classes), and is not ignore_index
    FASTCE_NO_MEMORY = 2     # for the scratch space of the call
    FASTCE_BAD_TARGET = 3    # a target is outside [0, 1]
    FASTCE_BAD_ARGUMENT = 4  # an option out of its range, a negative size, a NULL that may not be, or strides
    #                          of neither kind: classes side by side, or rows


# Softmax losses -----------------------------------------------------------------------------------
#
# logits         rows x classes: class c of row r is at r * row_stride + c * class_stride bytes. Either
#                class_stride is the size of a number, or row_stride is (planes, class-major arrays)
# labels         one per row, contiguous
# ignores        whether rows whose label is ignore_index do not count; if not, ignore_index says nothing
# class_weight   one a class, finite and >= 0, or NULL; alpha likewise
# sample_weight  one per row, finite, or NULL; it may be negative
# grad           rows x classes, written by its own strides, or NULL
# loss           one per row, contiguous, or NULL

cdef int softmax_cross_entropy_float32(
    const float* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride, Py_ssize_t class_stride,
    const int64_t* labels, bint ignores, int64_t ignore_index,
    const double* class_weight, const float* sample_weight, double label_smoothing, double z_loss,
    double grad_scale, float* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    float* loss, double* total) noexcept nogil

cdef int softmax_cross_entropy_float64(
    const double* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride, Py_ssize_t class_stride,
    const int64_t* labels, bint ignores, int64_t ignore_index,
    const double* class_weight, const double* sample_weight, double label_smoothing, double z_loss,
    double grad_scale, double* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    double* loss, double* total) noexcept nogil

cdef int softmax_focal_loss_float32(
    const float* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride, Py_ssize_t class_stride,
    const int64_t* labels, bint ignores, int64_t ignore_index,
    const double* alpha, const float* sample_weight, double gamma,
    double grad_scale, float* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    float* loss, double* total) noexcept nogil

cdef int softmax_focal_loss_float64(
    const double* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride, Py_ssize_t class_stride,
    const int64_t* labels, bint ignores, int64_t ignore_index,
    const double* alpha, const double* sample_weight, double gamma,
    double grad_scale, double* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    double* loss, double* total) noexcept nogil

# `teacher` are logits of the teacher, rows x classes by strides of their own.

cdef int softmax_kl_divergence_float32(
    const float* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride, Py_ssize_t class_stride,
    const float* teacher, Py_ssize_t teacher_row_stride, Py_ssize_t teacher_class_stride,
    const float* sample_weight, double temperature,
    double grad_scale, float* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    float* loss, double* total) noexcept nogil

cdef int softmax_kl_divergence_float64(
    const double* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride, Py_ssize_t class_stride,
    const double* teacher, Py_ssize_t teacher_row_stride, Py_ssize_t teacher_class_stride,
    const double* sample_weight, double temperature,
    double grad_scale, double* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
    double* loss, double* total) noexcept nogil

# `sum` gets the sum of the weights of all rows that are not ignored, which is what the weighted mean divides
# by. It says whether a label is bad, too. Focal loss has no class_weight here: alpha is part of the loss.

cdef int sum_label_weights_float32(
    const int64_t* labels, Py_ssize_t rows, Py_ssize_t classes, bint ignores, int64_t ignore_index,
    const double* class_weight, const float* sample_weight, double* sum) noexcept nogil

cdef int sum_label_weights_float64(
    const int64_t* labels, Py_ssize_t rows, Py_ssize_t classes, bint ignores, int64_t ignore_index,
    const double* class_weight, const double* sample_weight, double* sum) noexcept nogil


# Sigmoid losses -----------------------------------------------------------------------------------
#
# All arrays are contiguous, `count` numbers each; targets lie in [0, 1].
#
# pos_weight     one an element, finite and >= 0, or NULL
# sample_weight  one per element, finite, or NULL; it may be negative
# alpha          weight of the positive elements, 1 - alpha that of the others; below 0: none
# grad, loss     or NULL

cdef int bce_with_logits_float32(
    const float* logits, const float* target, Py_ssize_t count,
    const float* pos_weight, const float* sample_weight, double label_smoothing,
    double grad_scale, float* grad, float* loss, double* total) noexcept nogil

cdef int bce_with_logits_float64(
    const double* logits, const double* target, Py_ssize_t count,
    const double* pos_weight, const double* sample_weight, double label_smoothing,
    double grad_scale, double* grad, double* loss, double* total) noexcept nogil

cdef int sigmoid_focal_loss_float32(
    const float* logits, const float* target, Py_ssize_t count,
    const float* sample_weight, double gamma, double alpha, double label_smoothing,
    double grad_scale, float* grad, float* loss, double* total) noexcept nogil

cdef int sigmoid_focal_loss_float64(
    const double* logits, const double* target, Py_ssize_t count,
    const double* sample_weight, double gamma, double alpha, double label_smoothing,
    double grad_scale, double* grad, double* loss, double* total) noexcept nogil
