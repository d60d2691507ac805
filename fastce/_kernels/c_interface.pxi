# The C interface that _core.pxd declares and documents. `cimport` takes the functions from the variant in use. Their
# arguments are plain, because a pointer to a struct would say nothing about its fields. The two sides have to agree
# only on the signature, which is checked when a caller is imported.
# Needs softmax.pxi, sigmoid_calls.pxi.

from libc.math cimport isfinite
from libc.stdint cimport int64_t

cdef enum:  # statuses that the kernels themselves do not report
    BAD_TARGET = 3
    BAD_ARGUMENT = 4


cdef inline bint is_at_least_0(double option) noexcept nogil:
    return isfinite(option) and option >= 0.0


cdef int set_rows(Matrix* matrix, const void* data, Py_ssize_t size, Py_ssize_t rows, Py_ssize_t classes,
                  Py_ssize_t row_stride, Py_ssize_t class_stride) noexcept nogil:
    # The kernels run along classes or along rows, so one of the two must be contiguous. They count the distance between
    # classes in numbers.
    matrix.data = <char*> data
    matrix.storage = FLOAT64 if size == sizeof(double) else FLOAT32
    matrix.row_stride = row_stride
    matrix.class_stride = size if classes == 1 else class_stride
    matrix.inner = max_size(rows, 1)
    if matrix.class_stride % size != 0 or (rows > 1 and matrix.row_stride != size and matrix.class_stride != size):
        return BAD_ARGUMENT
    return OK


cdef int set_hard_labels(Batch* batch, const int64_t* labels, Py_ssize_t rows, Py_ssize_t classes,
                         bint ignores, int64_t ignore_index, const double* class_weight,
                         const void* sample_weight, Py_ssize_t size, double* denominator) noexcept nogil:
    # Checks all labels before anything is written.
    cdef Py_ssize_t position
    cdef WeightSum weights
    cdef int status
    if rows < 0 or classes < 1 or (labels == NULL and rows > 0):
        return BAD_ARGUMENT
    batch.classes = classes
    batch.class_weight = class_weight
    batch.labels.data = <char*> labels
    batch.labels.itemsize = sizeof(int64_t)
    batch.labels.stride = sizeof(int64_t)
    batch.labels.ignores = ignores
    batch.labels.ignore_index = ignore_index if ignores else -1  # the kernels compare with it in any case
    batch.sample_weight.data = <char*> sample_weight
    batch.sample_weight.storage = FLOAT64 if size == sizeof(double) else FLOAT32
    batch.sample_weight.stride = size
    status = weigh_labels(batch, rows, &weights, &position)
    if status == OK:
        denominator[0] = weights.total
    return status


cdef double sum_of(const real* losses, Py_ssize_t count) noexcept nogil:
    cdef double total = 0.0
    cdef Py_ssize_t i
    for i in range(count):
        total += read(losses + i)
    return total


cdef int run_hard_labels(
        Batch* batch, const real* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride,
        Py_ssize_t class_stride, const int64_t* labels, bint ignores, int64_t ignore_index,
        const double* class_weight, const real* sample_weight, double grad_scale, real* grad,
        Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride, real* loss, double* total) noexcept nogil:
    # Runs a batch whose options are set.
    cdef Py_ssize_t size = sizeof(real)
    cdef DefaultEnvironment environment
    cdef double denominator, sum = 0.0
    cdef void* soft_weight = NULL
    cdef int status
    environment.enter()
    status = set_hard_labels(batch, labels, rows, classes, ignores, ignore_index, class_weight, sample_weight, size,
                             &denominator)
    if status != OK:
        return status
    if total == NULL or (logits == NULL and rows > 0) or not isfinite(grad_scale):
        return BAD_ARGUMENT
    if set_rows(&batch.logits, logits, size, rows, classes, row_stride, class_stride) != OK:
        return BAD_ARGUMENT
    if grad != NULL:
        if set_rows(&batch.grad, grad, size, rows, classes, grad_row_stride, grad_class_stride) != OK:
            return BAD_ARGUMENT
    batch.scale = grad_scale
    batch.loss = <char*> loss
    if batch.label_smoothing != 0.0 and rows > 0:
        soft_weight = NULL if is_out_of_memory(classes) else malloc(classes * size)
        if soft_weight == NULL:
            return NO_MEMORY
        spread_smoothing(batch, classes, <real*> soft_weight)
        batch.soft_weight = soft_weight
    status = run_softmax(batch, 0, rows, real is double, &sum)
    free(soft_weight)
    if status == OK:
        total[0] = sum if loss == NULL else sum_of(<const real*> loss, rows)
    return status


cdef int begin_cross_entropy(Batch* batch, double label_smoothing, double z_loss) noexcept nogil:
    memset(batch, 0, sizeof(batch[0]))
    batch.kind = CROSS_ENTROPY
    batch.logit_scale = 1.0
    batch.label_smoothing = label_smoothing
    batch.z_loss = z_loss
    return OK if 0.0 <= label_smoothing <= 1.0 and isfinite(z_loss) else BAD_ARGUMENT


cdef int begin_softmax_focal(Batch* batch, double gamma) noexcept nogil:
    memset(batch, 0, sizeof(batch[0]))
    batch.kind = FOCAL
    batch.logit_scale = 1.0
    batch.gamma = gamma
    return OK if is_at_least_0(gamma) else BAD_ARGUMENT


cdef int softmax_cross_entropy_float32(
        const float* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride,
        Py_ssize_t class_stride, const int64_t* labels, bint ignores, int64_t ignore_index,
        const double* class_weight, const float* sample_weight, double label_smoothing, double z_loss,
        double grad_scale, float* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
        float* loss, double* total) noexcept nogil:
    cdef Batch batch
    if begin_cross_entropy(&batch, label_smoothing, z_loss) != OK:
        return BAD_ARGUMENT
    return run_hard_labels(&batch, logits, rows, classes, row_stride, class_stride, labels, ignores,
                           ignore_index, class_weight, sample_weight, grad_scale, grad,
                           grad_row_stride, grad_class_stride, loss, total)


cdef int softmax_cross_entropy_float64(
        const double* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride,
        Py_ssize_t class_stride, const int64_t* labels, bint ignores, int64_t ignore_index,
        const double* class_weight, const double* sample_weight, double label_smoothing, double z_loss,
        double grad_scale, double* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
        double* loss, double* total) noexcept nogil:
    cdef Batch batch
    if begin_cross_entropy(&batch, label_smoothing, z_loss) != OK:
        return BAD_ARGUMENT
    return run_hard_labels(&batch, logits, rows, classes, row_stride, class_stride, labels, ignores,
                           ignore_index, class_weight, sample_weight, grad_scale, grad,
                           grad_row_stride, grad_class_stride, loss, total)


cdef int softmax_focal_loss_float32(
        const float* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride,
        Py_ssize_t class_stride, const int64_t* labels, bint ignores, int64_t ignore_index,
        const double* alpha, const float* sample_weight, double gamma,
        double grad_scale, float* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
        float* loss, double* total) noexcept nogil:
    cdef Batch batch
    if begin_softmax_focal(&batch, gamma) != OK:
        return BAD_ARGUMENT
    return run_hard_labels(&batch, logits, rows, classes, row_stride, class_stride, labels, ignores,
                           ignore_index, alpha, sample_weight, grad_scale, grad, grad_row_stride,
                           grad_class_stride, loss, total)


cdef int softmax_focal_loss_float64(
        const double* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride,
        Py_ssize_t class_stride, const int64_t* labels, bint ignores, int64_t ignore_index,
        const double* alpha, const double* sample_weight, double gamma,
        double grad_scale, double* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
        double* loss, double* total) noexcept nogil:
    cdef Batch batch
    if begin_softmax_focal(&batch, gamma) != OK:
        return BAD_ARGUMENT
    return run_hard_labels(&batch, logits, rows, classes, row_stride, class_stride, labels, ignores,
                           ignore_index, alpha, sample_weight, grad_scale, grad, grad_row_stride,
                           grad_class_stride, loss, total)


cdef int sum_label_weights(
        const int64_t* labels, Py_ssize_t rows, Py_ssize_t classes, bint ignores, int64_t ignore_index,
        const double* class_weight, const real* sample_weight, double* sum) noexcept nogil:
    cdef Batch batch
    cdef DefaultEnvironment environment
    environment.enter()
    if begin_cross_entropy(&batch, 0.0, 0.0) != OK or sum == NULL:
        return BAD_ARGUMENT
    return set_hard_labels(&batch, labels, rows, classes, ignores, ignore_index, class_weight,
                           sample_weight, sizeof(real), sum)


cdef int run_teacher(
        Batch* batch, const real* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride,
        Py_ssize_t class_stride, const real* sample_weight, double temperature, double grad_scale, real* grad,
        Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride, real* loss, double* total) noexcept nogil:
    # Runs a batch whose teacher is set.
    cdef Py_ssize_t size = sizeof(real)
    cdef DefaultEnvironment environment
    cdef double sum = 0.0
    cdef int status
    environment.enter()
    if (rows < 0 or classes < 1 or total == NULL or (rows > 0 and (logits == NULL or batch.probabilities.data == NULL))
            or not isfinite(grad_scale) or not isfinite(temperature) or not temperature > 0.0):
        return BAD_ARGUMENT
    if real is float and leaves_float32(1.0, 1.0, temperature * temperature, 1.0):
        return BAD_ARGUMENT
    if set_rows(&batch.logits, logits, size, rows, classes, row_stride, class_stride) != OK:
        return BAD_ARGUMENT
    if grad != NULL:
        if set_rows(&batch.grad, grad, size, rows, classes, grad_row_stride, grad_class_stride) != OK:
            return BAD_ARGUMENT
    batch.kind = DIVERGENCE
    batch.logit_scale = 1.0
    batch.temperature = temperature
    batch.classes = classes
    batch.scale = grad_scale
    batch.sample_weight.data = <char*> sample_weight
    batch.sample_weight.storage = native_storage(<real> 0)
    batch.sample_weight.stride = size
    batch.loss = <char*> loss
    status = run_softmax(batch, 0, rows, real is double, &sum)
    if status == OK:
        total[0] = sum if loss == NULL else sum_of(<const real*> loss, rows)
    return status


cdef int softmax_kl_divergence_float32(
        const float* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride, Py_ssize_t class_stride,
        const float* teacher, Py_ssize_t teacher_row_stride, Py_ssize_t teacher_class_stride,
        const float* sample_weight, double temperature,
        double grad_scale, float* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
        float* loss, double* total) noexcept nogil:
    cdef Batch batch
    memset(&batch, 0, sizeof(batch))
    if set_rows(&batch.probabilities, teacher, sizeof(float), rows, classes, teacher_row_stride,
                teacher_class_stride) != OK:
        return BAD_ARGUMENT
    return run_teacher(&batch, logits, rows, classes, row_stride, class_stride, sample_weight, temperature,
                       grad_scale, grad, grad_row_stride, grad_class_stride, loss, total)


cdef int softmax_kl_divergence_float64(
        const double* logits, Py_ssize_t rows, Py_ssize_t classes, Py_ssize_t row_stride, Py_ssize_t class_stride,
        const double* teacher, Py_ssize_t teacher_row_stride, Py_ssize_t teacher_class_stride,
        const double* sample_weight, double temperature,
        double grad_scale, double* grad, Py_ssize_t grad_row_stride, Py_ssize_t grad_class_stride,
        double* loss, double* total) noexcept nogil:
    cdef Batch batch
    memset(&batch, 0, sizeof(batch))
    if set_rows(&batch.probabilities, teacher, sizeof(double), rows, classes, teacher_row_stride,
                teacher_class_stride) != OK:
        return BAD_ARGUMENT
    return run_teacher(&batch, logits, rows, classes, row_stride, class_stride, sample_weight, temperature,
                       grad_scale, grad, grad_row_stride, grad_class_stride, loss, total)


cdef int sum_label_weights_float32(
        const int64_t* labels, Py_ssize_t rows, Py_ssize_t classes, bint ignores, int64_t ignore_index,
        const double* class_weight, const float* sample_weight, double* sum) noexcept nogil:
    return sum_label_weights(labels, rows, classes, ignores, ignore_index, class_weight, sample_weight, sum)


cdef int sum_label_weights_float64(
        const int64_t* labels, Py_ssize_t rows, Py_ssize_t classes, bint ignores, int64_t ignore_index,
        const double* class_weight, const double* sample_weight, double* sum) noexcept nogil:
    return sum_label_weights(labels, rows, classes, ignores, ignore_index, class_weight, sample_weight, sum)


cdef int run_contiguous(
        const real* logits, const real* target, Py_ssize_t count, const real* pos_weight,
        const real* sample_weight, double label_smoothing, double grad_scale, real* grad, real* loss,
        double* total, const sigmoid_loss* options_of_loss) noexcept nogil:
    cdef Elements elements
    cdef Axis axis[6]
    cdef DefaultEnvironment environment
    cdef int storage = FLOAT64 if real is double else FLOAT32
    cdef double sum = 0.0
    environment.enter()
    if (count < 0 or total == NULL or (count > 0 and (logits == NULL or target == NULL))
            or not 0.0 <= label_smoothing <= 1.0 or not isfinite(grad_scale)):
        return BAD_ARGUMENT
    memset(&elements, 0, sizeof(elements))
    elements.target = flat_numbers(target, storage, count, &axis[0])
    if first_outside(&elements, 0, count, <real> 1) >= 0:
        return BAD_TARGET
    elements.logits = flat_numbers(logits, storage, count, &axis[1])
    elements.positive_weight = flat_numbers(pos_weight, storage, count, &axis[2])
    elements.sample_weight = flat_numbers(sample_weight, storage, count, &axis[3])
    elements.grad = flat_numbers(grad, storage, count, &axis[4])
    elements.loss = flat_numbers(loss, storage, count, &axis[5])
    elements.label_smoothing = label_smoothing
    elements.scale = grad_scale
    elements.streams = grad != NULL and count * <Py_ssize_t> sizeof(real) >= STREAM_BYTES
    run_sigmoid(&elements, options_of_loss, 0, count, real is double, &sum)
    total[0] = sum if loss == NULL else sum_of(<const real*> loss, count)
    return OK


cdef int run_contiguous_focal(
        const real* logits, const real* target, Py_ssize_t count, const real* sample_weight, double gamma,
        double alpha, double label_smoothing, double grad_scale, real* grad, real* loss,
        double* total) noexcept nogil:
    cdef SigmoidFocal options
    if not is_at_least_0(gamma) or not alpha <= 1.0:
        return BAD_ARGUMENT
    options = sigmoid_focal_options(gamma, alpha)
    return run_contiguous(logits, target, count, <const real*> NULL, sample_weight, label_smoothing,
                          grad_scale, grad, loss, total, &options)


cdef int bce_with_logits_float32(
        const float* logits, const float* target, Py_ssize_t count,
        const float* pos_weight, const float* sample_weight, double label_smoothing,
        double grad_scale, float* grad, float* loss, double* total) noexcept nogil:
    cdef Bce options
    return run_contiguous(logits, target, count, pos_weight, sample_weight, label_smoothing, grad_scale,
                          grad, loss, total, &options)


cdef int bce_with_logits_float64(
        const double* logits, const double* target, Py_ssize_t count,
        const double* pos_weight, const double* sample_weight, double label_smoothing,
        double grad_scale, double* grad, double* loss, double* total) noexcept nogil:
    cdef Bce options
    return run_contiguous(logits, target, count, pos_weight, sample_weight, label_smoothing, grad_scale,
                          grad, loss, total, &options)


cdef int sigmoid_focal_loss_float32(
        const float* logits, const float* target, Py_ssize_t count,
        const float* sample_weight, double gamma, double alpha, double label_smoothing,
        double grad_scale, float* grad, float* loss, double* total) noexcept nogil:
    return run_contiguous_focal(logits, target, count, sample_weight, gamma, alpha, label_smoothing,
                                grad_scale, grad, loss, total)


cdef int sigmoid_focal_loss_float64(
        const double* logits, const double* target, Py_ssize_t count,
        const double* sample_weight, double gamma, double alpha, double label_smoothing,
        double grad_scale, double* grad, double* loss, double* total) noexcept nogil:
    return run_contiguous_focal(logits, target, count, sample_weight, gamma, alpha, label_smoothing,
                                grad_scale, grad, loss, total)
