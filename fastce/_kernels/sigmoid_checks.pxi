# Checks of the numbers in a sigmoid loss's arguments: targets in range, sums of weights.
# Needs sigmoid_chunks.pxi.

cdef bint any_outside(const real* y, Py_ssize_t count, real largest) noexcept nogil:
    # Whether a number of the chunk may lie outside [0, largest].
    cdef bits_watch[real] seen
    cdef Py_ssize_t i = 0
    while i < count:
        seen.see(load(y + i))
        i += lanes(<real> 0)
    return seen.exceeds(largest)


cdef const real* used_targets(const Elements* arrays, Py_ssize_t first, Py_ssize_t count, const real* y,
                              real* weight, real* to) noexcept nogil:
    # A chunk of targets, with 0 in place of those that do not count.
    cdef const real* given = weights_of_chunk(arrays, first, 0, count, weight, to)
    cdef Py_ssize_t i = 0
    while i < count:
        store(to + i, zero_where(equal(load(given + i), splat(<real> 0)), load(y + i)))
        i += lanes(<real> 0)
    return to


cdef enum:
    STREAMS = 4  # places from which targets are read at once, so that several cache lines are in flight


cdef Py_ssize_t all_within(const real* y, Py_ssize_t count, real largest) noexcept nogil:
    # How many of the first numbers are known to lie in [0, largest]: either 0, or all but the last few.
    cdef Py_ssize_t part = count // (STREAMS * ELEMENTS) * ELEMENTS, i = 0, k
    cdef bits_watch[real] seen
    while i < part:
        for k in range(STREAMS):
            seen.see(load(y + k * part + i))
        i += lanes(<real> 0)
    return 0 if seen.exceeds(largest) else STREAMS * part


cdef Py_ssize_t first_outside(const Elements* arrays, Py_ssize_t start, Py_ssize_t stop,
                              real largest) noexcept nogil:
    # The position of the first target that counts and lies outside [0, largest], NaN included, or -1.
    cdef double memory[3 * BUFFER]
    cdef const real* y
    cdef Py_ssize_t first = start, i, count
    if is_of(&arrays.target, largest):
        first += all_within(<const real*> arrays.target.data + start, stop - start, largest)
    while first < stop:
        count = min_size(chunk_elements(largest), stop - first)
        y = read_numbers(&arrays.target, first, count, place(memory, 0, largest))
        if any_outside(y, count, largest):
            y = used_targets(arrays, first, count, y, place(memory, 1, largest), place(memory, 2, largest))
            for i in range(count):
                if not 0 <= read(y + i) <= largest:
                    return first + i
        first += count
    return -1


cdef struct WeightSurvey:
    double total
    double largest    # absolute value
    bint any_counts   # whether any used weight is not 0: nonzero weights may also sum to 0
    bint all_finite


cdef double count_used(const Numbers* mask, Py_ssize_t count) noexcept nogil:
    cdef double memory[BUFFER]
    cdef const float* used
    cdef vec[float] sum
    cdef double total = 0.0
    cdef Py_ssize_t first = 0, part, i
    while first < count:
        part = min_size(ELEMENTS, count - first)
        used = read_numbers(mask, first, part, place(memory, 0, <float> 0))
        sum = splat(<float> 0)
        i = 0
        while i < part:
            sum = sum + load(used + i)
            i += lanes(<float> 0)
        total += reduce_add(sum)
        first += part
    return total


cdef void survey_weights(const Numbers* weight, const Numbers* mask, Py_ssize_t count,
                         WeightSurvey* survey) noexcept nogil:
    # Sums the used weights in pairs, with the rounding errors carried along, and checks all weights.
    cdef double memory[2 * BUFFER]
    cdef wide_sum[double] sum
    cdef vec[double] x, y, zero = splat(0.0), largest = zero, largest_used = zero, even = zero, odd = zero
    cdef const double* w
    cdef const double* used = NULL
    cdef Py_ssize_t first = 0, part, i
    cdef int width = lanes(0.0)
    cdef DefaultEnvironment environment
    environment.enter()
    while first < count:
        part = min_size(chunk_elements(0.0), count - first)
        w = read_numbers(weight, first, part, place(memory, 0, 0.0))
        if mask.data != NULL:
            used = read_numbers(mask, first, part, place(memory, 1, 0.0))
        i = 0
        while i < part:
            x = load(w + i)
            y = load(w + i + width)
            even = fma(x, zero, even)  # NaN as soon as a number is not finite
            odd = fma(y, zero, odd)
            largest = max(max(abs(x), abs(y)), largest)
            if used != NULL:
                x = zero_where(equal(load(used + i), zero), x)
                y = zero_where(equal(load(used + i + width), zero), y)
                largest_used = max(max(abs(x), abs(y)), largest_used)
            sum.add(x + y)
            i += 2 * width
        first += part
    survey.total = sum.total()
    survey.largest = reduce_max(largest)
    survey.any_counts = reduce_max(largest if mask.data == NULL else largest_used) > 0.0
    survey.all_finite = reduce_add(even + odd) == 0.0
