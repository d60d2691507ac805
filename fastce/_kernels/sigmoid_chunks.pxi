# The arrays of a call of a sigmoid loss, and one chunk of them as the loops process it.
# Needs numbers.pxi.

cdef struct Elements:
    Numbers logits
    Numbers target
    Numbers positive_weight   # pos_weight or alpha
    Numbers negative_weight   # 1 - alpha
    Numbers sample_weight
    Numbers mask
    Numbers grad_output
    Numbers loss
    Numbers grad
    Numbers hess
    double label_smoothing
    double scale
    bint streams              # whether outputs are written past the caches


cdef struct Chunk:
    # One chunk as the loops process it, all in the working precision.
    void* z
    void* e         # exp(-|z|); later powers of focal loss, and per-element losses if they are wanted
    void* smaller   # sigma(-|z|), if it has a separate loop
    void* log_term  # log1p(e), likewise
    void* y
    void* positive_weight
    void* negative_weight
    void* weight
    void* factor    # of the derivatives: grad_output
    void* grad
    void* hess
    void* streamed  # where the gradient is streamed to, one stride after it is computed, or NULL
    double label_smoothing
    double scale
    bint has_values     # whether per-element losses are wanted
    bint has_positive_weight  # whether pos_weight or alpha is given
    bint maybe_bad_target        # whether a target may lie outside [0, 1]
    bint not_ordinary  # whether this chunk, or one before it, is not Ordinary


cdef inline void* option_chunk(const Numbers* option, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t count,
                               real* buffer) noexcept nogil:
    # The elements from `begin` on: ones if the option is not given, and zeros past the end.
    if option.data != NULL:
        return read_numbers(option, first + begin, count - begin, buffer + begin) - begin
    fill(buffer, begin, count, <real> 1)
    fill(buffer, count, count + 16, <real> 0)
    return buffer


cdef const real* weights_of_chunk(const Elements* arrays, Py_ssize_t first, Py_ssize_t begin,
                                  Py_ssize_t count, real* weight, real* used) noexcept nogil:
    # The weights of a chunk: 0 if masked, and past the end.
    cdef const real* given
    cdef Py_ssize_t i = begin
    if arrays.sample_weight.data == NULL and arrays.mask.data != NULL:
        return <const real*> option_chunk(&arrays.mask, first, begin, count, weight)
    given = <const real*> option_chunk(&arrays.sample_weight, first, begin, count, weight)
    if arrays.mask.data == NULL:
        return given
    option_chunk(&arrays.mask, first, begin, count, used)
    while i < count:
        store(weight + i, zero_where(equal(load(<const real*> used + i), splat(<real> 0)), load(given + i)))
        i += lanes(<real> 0)
    return weight


cdef void options_of_chunk(const Elements* arrays, Py_ssize_t first, Py_ssize_t begin, Py_ssize_t count,
                           Chunk* chunk, double* memory, real tag) noexcept nogil:
    # Options that do not change from chunk to chunk are set for the first one only.
    cdef bint anew = chunk.weight == NULL or count < chunk_elements(tag)
    cdef real* factor = place(memory, 8, tag)
    if anew or not is_constant(&arrays.positive_weight):
        chunk.positive_weight = option_chunk(&arrays.positive_weight, first, begin, count,
                                             place(memory, 5, tag))
    if anew or not is_constant(&arrays.negative_weight):
        chunk.negative_weight = option_chunk(&arrays.negative_weight, first, begin, count,
                                             place(memory, 6, tag))
    if anew or not (is_constant(&arrays.sample_weight) and is_constant(&arrays.mask)):
        chunk.weight = <void*> weights_of_chunk(arrays, first, begin, count, place(memory, 7, tag), factor)
        anew |= arrays.mask.data != NULL and arrays.sample_weight.data != NULL  # `used` has overwritten `factor`
    if anew or not is_constant(&arrays.grad_output):
        chunk.factor = option_chunk(&arrays.grad_output, first, begin, count, factor)
