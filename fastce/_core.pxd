"""The C interface: ``cimport fastce._core``.

These functions need neither the GIL nor a Python object. They use the instruction set that was chosen when
fastce was imported, run in the calling thread only, and give the same results as the Python losses with the
same names. The signatures are frozen: new functions get new names (tests/kernels/c_interface.txt).

Each function exists for float32 and for float64 logits. Arrays with one number per row or per element
(weights, gradient, losses) have the type of the logits; options and class weights are double. Strides are
in bytes. A pointer marked "or NULL" may be NULL: missing weights count as 1, and a missing output is not
written. `grad` may be `logits`, with the same strides. Outputs must not overlap anything else.

`total` receives the sum of the weighted losses of all rows or elements, accumulated in double. If `loss` is
given, it is the sum of the losses as written there. The gradient is that of grad_scale * total. If nothing is
weighted or ignored, grad_scale = 1 / rows gives the gradient of the mean.

The return value is a status. If it is not FASTCE_OK, nothing has been written, unless another thread changed
a label during the call. Labels, targets and options are checked; the numbers in other arrays are not.
"""

from libc.stdint cimport int64_t

cdef enum:
    FASTCE_OK = 0
    FASTCE_BAD_LABEL = 1     # a label is outside [0, classes) and is not ignore_index
    FASTCE_NO_MEMORY = 2     # the scratch space of the call could not be allocated
    FASTCE_BAD_TARGET = 3    # a target is outside [0, 1]
    FASTCE_BAD_ARGUMENT = 4  # an option out of range, a negative size, no classes, a NULL that is not allowed, or
    #                          strides with neither contiguous classes nor contiguous rows


# Softmax losses -----------------------------------------------------------------------------------
#
# logits         rows x classes: class c of row r is at byte r * row_stride + c * class_stride. Either
#                class_stride or row_stride (planes, class-major arrays) is the size of a number, and
#                class_stride is a multiple of it
# labels         one per row, contiguous
# ignores        whether rows with the label ignore_index are ignored; otherwise ignore_index is not used
# class_weight   one per class, finite and >= 0, or NULL; likewise alpha
# sample_weight  one per row, finite, may be negative; or NULL
# grad           rows x classes, with its own strides, or NULL
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

# `teacher` holds the teacher's logits, rows x classes, with its own strides. For float32, the temperature must lie
# between 2^-50 and 2^50.

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

# `sum` receives the sum of the weights of all rows that are not ignored, the denominator of the weighted mean.
# The function also checks the labels. For focal loss, pass no class_weight: alpha belongs to the loss.

cdef int sum_label_weights_float32(
    const int64_t* labels, Py_ssize_t rows, Py_ssize_t classes, bint ignores, int64_t ignore_index,
    const double* class_weight, const float* sample_weight, double* sum) noexcept nogil

cdef int sum_label_weights_float64(
    const int64_t* labels, Py_ssize_t rows, Py_ssize_t classes, bint ignores, int64_t ignore_index,
    const double* class_weight, const double* sample_weight, double* sum) noexcept nogil


# Sigmoid losses -----------------------------------------------------------------------------------
#
# All arrays are contiguous, with `count` numbers each. Targets lie in [0, 1].
#
# pos_weight     one per element, finite and >= 0, or NULL
# sample_weight  one per element, finite, may be negative; or NULL
# alpha          weight of positives, 1 - alpha of negatives; a negative alpha means no weights
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
