# Shared by the softmax kernels: the arrays of a batch, its labels, and the numbers of each row.

ctypedef fused real:
    float
    double

cdef enum:
    FLOAT32 = 0
    FLOAT64 = 1
    FLOAT16 = 2
    BFLOAT16 = 3

cdef enum:  # the status of a kernel, which the caller turns into an exception
    OK = 0
    BAD_LABEL = 1
    NO_MEMORY = 2

cdef enum:  # which loss of the softmax family
    CROSS_ENTROPY = 0
    FOCAL = 1
    LOG_SUM_EXP = 2  # its gradient is softmax
    LOG_SOFTMAX = 3  # written to the gradient's array
    DIVERGENCE = 4   # a teacher's logits take the place of probabilities

KINDS = {"cross_entropy": CROSS_ENTROPY, "focal": FOCAL, "logsumexp": LOG_SUM_EXP,
         "log_softmax": LOG_SOFTMAX, "kl_divergence": DIVERGENCE}

# The number of rows that are finished together. They fill several vectors of every instruction set, so that the
# logarithms of one vector overlap with those of another, and each stage is called less often. Doubling the number
# gains nothing. Halving it costs time, most with few classes (`python -m bench.cliffs --only softmax --classes 2,10`).
cdef enum:
    BLOCK_ROWS = 128


cdef struct Matrix:
    # The layout in memory of a rows x classes array. Row r starts at
    # data + (r // inner) * outer_stride + (r % inner) * row_stride; all strides are in bytes.
    char* data
    int storage
    Py_ssize_t class_stride
    Py_ssize_t row_stride
    Py_ssize_t inner
    Py_ssize_t outer_stride


cdef struct Labels:
    char* data
    int itemsize
    bint unsigned
    bint ignores
    Py_ssize_t stride
    long long ignore_index


cdef struct Scalars:
    # One floating-point number per row, or none.
    char* data
    int storage
    Py_ssize_t stride


cdef struct Batch:
    # The loss and its options.
    int kind
    double label_smoothing
    double z_loss
    double gamma
    double temperature
    double logit_scale
    double softcap            # 0: none
    const double* class_weight  # weight or alpha, NULL for ones
    const void* soft_weight   # label_smoothing / K * weight in the working precision, or NULL
    # The batch.
    Py_ssize_t classes
    Matrix logits
    Labels labels             # data NULL: none
    Matrix probabilities      # data NULL: none
    Matrix mask               # bytes; data NULL: none
    Scalars sample_weight
    Scalars grad_output
    double scale              # factor of all gradients: grad_output / denominator
    bint streams              # whether derivatives are too large for the caches and are written past them
    Matrix grad               # data NULL: not wanted
    Matrix hess
    char* loss                # one number per row in the working precision, or NULL
    char* log_sum_exp
    long long* argmax
    double* maximum           # this and the following: copies of RowBlock's arrays for all rows, or NULL
    double* others
    double* target_logit
    double* soft_gap
    double* statistics        # one array over all rows per statistic of statistics.pxi, or NULL
    Py_ssize_t statistics_apart  # elements from one of these arrays to the next
    double* summaries         # likewise, the summaries of these classes (divergence_shards.pxi), or NULL
    const double* whole_rows  # the merged summaries of all shards if the classes are one shard's, else NULL
    Py_ssize_t summaries_apart


cdef int set_loss(Batch* batch, str kind, dict given) except -1:
    # Sets the loss and its options from Python's names and numbers.
    batch.kind = KINDS[kind]
    batch.label_smoothing = given.pop("label_smoothing", 0.0)
    batch.z_loss = given.pop("z_loss", 0.0)
    batch.gamma = given.pop("gamma", 0.0)
    batch.temperature = given.pop("temperature", 1.0)
    batch.logit_scale = given.pop("logit_scale", 1.0)
    batch.softcap = given.pop("softcap", 0.0)
    if given:
        raise TypeError(f"unknown options of {kind}: {', '.join(given)}")
    return 0


cdef struct RowBlock:
    # Row statistics, in double: u is the logit after scale and cap, m its maximum over the row.
    double maximum[BLOCK_ROWS]
    double sum_without_pivot[BLOCK_ROWS]  # sum of exp(u_j - m) over all j except one maximum
    double target_logit[BLOCK_ROWS]
    double target_exp[BLOCK_ROWS]     # exp(u_y - m)
    double hard_mass[BLOCK_ROWS]      # target mass on the label alone
    double soft_mass[BLOCK_ROWS]      # sum of the soft target mass t_c over all classes
    double soft_at_target[BLOCK_ROWS]  # t_y
    double soft_gap[BLOCK_ROWS]  # sum of t_c (m - u_c)
    double weight[BLOCK_ROWS]         # of the loss
    double factor[BLOCK_ROWS]         # of the gradient
    # The results of the formulas (see formulas.pxi).
    double value[BLOCK_ROWS]
    double log_sum_exp[BLOCK_ROWS]
    double quotient[BLOCK_ROWS]       # log(S / pivot) is computed from these two: see divide_sums
    double exponent[BLOCK_ROWS]
    double inverse[BLOCK_ROWS]        # 1 / S
    double rest_inverse[BLOCK_ROWS]   # 1 / (S - e_y), for the focal loss
    double softmax_coefficient[BLOCK_ROWS]
    double lse_coefficient[BLOCK_ROWS]  # the part of it that is due to z-loss
    double row_scale[BLOCK_ROWS]
    double grad_at_label[BLOCK_ROWS]
    double hess_product[BLOCK_ROWS]
    double hess_square[BLOCK_ROWS]
    double hess_at_label[BLOCK_ROWS]
    long long label[BLOCK_ROWS]       # -1: none, or the row does not count
    bint active[BLOCK_ROWS]
    bint all_active
    bint all_places_active            # the same, including what earlier, longer blocks left after the last row
    bint has_default_scalars                    # whether weight, factor and active are still as begin_batch set them


cdef inline Py_ssize_t min_size(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a < b else b


cdef inline Py_ssize_t max_size(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a > b else b


cdef inline int native_storage(real tag) noexcept nogil:
    return FLOAT64 if sizeof(real) == 8 else FLOAT32


cdef inline Py_ssize_t storage_size(int storage) noexcept nogil:
    return 8 if storage == FLOAT64 else 4 if storage == FLOAT32 else 2


cdef inline bint is_row(const Matrix* matrix) noexcept nogil:
    return matrix.data == NULL or matrix.class_stride == storage_size(matrix.storage)


cdef inline bint is_plane(const Matrix* matrix) noexcept nogil:
    # Whether neighbouring rows are contiguous and the classes are not.
    return (matrix.data != NULL and matrix.class_stride != storage_size(matrix.storage)
            and matrix.row_stride == storage_size(matrix.storage))


cdef inline char* row_address(const Matrix* matrix, Py_ssize_t row) noexcept nogil:
    if matrix.inner > row:
        return matrix.data + row * matrix.row_stride
    return (matrix.data + (row // matrix.inner) * matrix.outer_stride
            + (row % matrix.inner) * matrix.row_stride)


cdef inline bint is_soft(const Batch* batch) noexcept nogil:
    return batch.soft_weight != NULL or batch.probabilities.data != NULL
