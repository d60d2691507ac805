# Arrays of any type and strides, broadcast to the elements of a call, and how a chunk of one is converted to the
# working precision and back. No array is copied as a whole.
# Needs conversion.pxi, arrays.pxi.

cdef enum:  # storages in addition to those of batch.pxi
    BOOL = 4
    INT8 = 5
    UINT8 = 6
    INT16 = 7
    UINT16 = 8
    INT32 = 9
    UINT32 = 10
    INT64 = 11
    UINT64 = 12

cdef enum:
    ELEMENTS = 1024         # a chunk of float32, and half as many of float64: a few buffers of 4 KB fit the
    #                         first-level cache, and all of them the small stack of a thread
    BUFFER = 528            # size of a chunk's buffer in doubles: a vector may extend past the chunk's end


ctypedef fused integer:
    (signed char)
    (unsigned char)
    short
    (unsigned short)
    int
    (unsigned int)


ctypedef fused item:
    (unsigned char)
    (unsigned short)
    (unsigned int)
    (unsigned long long)


ctypedef fused other_real:
    float
    double


cdef struct Axis:
    Py_ssize_t size
    Py_ssize_t stride  # in bytes, of either sign; 0 if numbers are repeated


cdef struct Numbers:
    char* data    # NULL: not given
    int storage
    int itemsize
    bint swapped
    int axes      # at least 1; contiguous neighbours are joined
    Axis* axis


cdef inline bint is_one_run(const Numbers* numbers) noexcept nogil:
    return numbers.axes == 1 and numbers.axis[0].stride == numbers.itemsize and not numbers.swapped


cdef inline bint is_of(const Numbers* numbers, real tag) noexcept nogil:
    # Whether the kernel may use the numbers in place.
    return numbers.storage == native_storage(tag) and is_one_run(numbers)


cdef inline bint is_constant(const Numbers* numbers) noexcept nogil:
    return numbers.data == NULL or (numbers.axes == 1 and numbers.axis[0].stride == 0)


cdef inline Numbers flat_numbers(const void* data, int storage, Py_ssize_t count, Axis* axis) noexcept nogil:
    cdef Numbers numbers
    numbers.data = <char*> data
    numbers.storage = storage
    numbers.itemsize = <int> storage_size(storage)
    numbers.swapped = False
    numbers.axes = 1
    numbers.axis = axis
    axis.size = count
    axis.stride = numbers.itemsize
    return numbers


cdef inline Py_ssize_t chunk_elements(real tag) noexcept nogil:
    return ELEMENTS * <Py_ssize_t> sizeof(float) // <Py_ssize_t> sizeof(real)


cdef inline real* place(double* memory, int buffer, real tag) noexcept nogil:
    return <real*> (memory + buffer * BUFFER)


cdef inline void fill(real* buffer, Py_ssize_t first, Py_ssize_t stop, real value) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, stop):
        buffer[i] = value


# ------------------------------------------------------------------------------------ conversion

cdef void widen_integers(const integer* source, real* to, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        to[i] = <real> read(source + i)


cdef void widen_long_integers(const unsigned long long* source, bint is_signed, real* to,
                              Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i + lanes(<real> 0) <= count:
        store(to + i, load_integers(source + i, is_signed, <real> 0))
        i += lanes(<real> 0)
    for i in range(i, count):  # rounded to double first, as in vectors
        to[i] = <real> (<double> read(<const long long*> source + i) if is_signed else <double> read(source + i))


cdef void convert_floats(const real* source, other_real* to, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        write(to + i, <other_real> read(source + i))


cdef void widen_numbers(const char* source, int storage, real* to, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if storage <= BFLOAT16:
        widen(source, storage, to, count)
    elif storage == BOOL:
        for i in range(count):
            to[i] = <real> (source[i] != 0)
    elif storage == INT8:
        widen_integers(<const signed char*> source, to, count)
    elif storage == UINT8:
        widen_integers(<const unsigned char*> source, to, count)
    elif storage == INT16:
        widen_integers(<const short*> source, to, count)
    elif storage == UINT16:
        widen_integers(<const unsigned short*> source, to, count)
    elif storage == INT32:
        widen_integers(<const int*> source, to, count)
    elif storage == UINT32:
        widen_integers(<const unsigned int*> source, to, count)
    elif storage == INT64:
        widen_long_integers(<const unsigned long long*> source, True, to, count)
    else:
        widen_long_integers(<const unsigned long long*> source, False, to, count)


cdef void narrow_numbers(const real* source, char* to, int storage, Py_ssize_t count) noexcept nogil:
    cdef float narrow_buffer[BUFFER]
    if storage == FLOAT32:
        convert_floats(source, <float*> to, count)
    elif storage == FLOAT64:
        convert_floats(source, <double*> to, count)
    elif real is float:
        narrow(source, to, storage, count)
    else:
        convert_floats(source, &narrow_buffer[0], count)
        narrow(<const float*> &narrow_buffer[0], to, storage, count)


# --------------------------------------------------------------------------------------- strides

cdef inline item swapped_item(item x) noexcept nogil:
    cdef unsigned int low, high
    if item is cython.uchar:
        return x
    elif item is cython.ushort:
        return x << 8 | x >> 8
    elif item is cython.uint:
        return x << 24 | (x & 0xff00) << 8 | (x >> 8) & 0xff00 | x >> 24
    else:
        low = <unsigned int> x
        high = <unsigned int> (x >> 32)
        return <unsigned long long> swapped_item(low) << 32 | swapped_item(high)


cdef void move_items(item* from_, Py_ssize_t from_stride, item* to, Py_ssize_t to_stride, Py_ssize_t count,
                     bint swapped) noexcept nogil:
    cdef Py_ssize_t i
    cdef item x
    for i in range(count):
        x = read(<const item*> (<char*> from_ + i * from_stride))
        write(<item*> (<char*> to + i * to_stride), swapped_item(x) if swapped else x)


cdef void move_run(char* from_, Py_ssize_t from_stride, char* to, Py_ssize_t to_stride, Py_ssize_t count,
                   int itemsize, bint swapped) noexcept nogil:
    if from_stride == to_stride and not swapped:  # both are then the size of an item
        memcpy(to, from_, count * itemsize)
    elif itemsize == 8:
        move_items(<unsigned long long*> from_, from_stride, <unsigned long long*> to, to_stride, count,
                   swapped)
    elif itemsize == 4:
        move_items(<unsigned int*> from_, from_stride, <unsigned int*> to, to_stride, count, swapped)
    elif itemsize == 2:
        move_items(<unsigned short*> from_, from_stride, <unsigned short*> to, to_stride, count, swapped)
    else:
        move_items(<unsigned char*> from_, from_stride, <unsigned char*> to, to_stride, count, swapped)


cdef void move_numbers(const Numbers* numbers, int axes, Py_ssize_t first, Py_ssize_t count, char* buffer,
                       bint to_array) noexcept nogil:
    # Copies `count` items of the leading axes, from item `first` on, to the array or to the buffer.
    cdef Py_ssize_t size, stride, outer, inner, run, rest, period = 1, done = 0
    cdef int itemsize = numbers.itemsize, k
    cdef char* at
    for k in range(1, axes):
        period *= numbers.axis[k].size
    if numbers.axis[0].stride == 0 and period < count:  # read once, then copied in doubling steps
        move_numbers(numbers, axes, first, period, buffer, to_array)
        done = period
        while done < count:
            run = min_size(done, count - done)
            memcpy(buffer + done * itemsize, buffer, run * itemsize)
            done += run
        return
    size = numbers.axis[axes - 1].size
    stride = numbers.axis[axes - 1].stride
    outer = first // size
    inner = first - outer * size
    while done < count:
        at = numbers.data + inner * stride
        rest = outer
        for k in range(axes - 2, 0, -1):
            at += rest % numbers.axis[k].size * numbers.axis[k].stride
            rest //= numbers.axis[k].size
        if axes > 1:
            at += rest * numbers.axis[0].stride
        run = min_size(size - inner, count - done)
        if to_array:
            move_run(buffer + done * itemsize, itemsize, at, stride, run, itemsize, numbers.swapped)
        else:
            move_run(at, stride, buffer + done * itemsize, itemsize, run, itemsize, numbers.swapped)
        done += run
        outer += 1
        inner = 0


cdef void read_leading(const Numbers* numbers, int axes, Py_ssize_t first, Py_ssize_t count,
                       real* to) noexcept nogil:
    # Converts up to a chunk of the leading axes to the working precision.
    cdef char items[8 * ELEMENTS]
    if axes == 1 and numbers.axis[0].stride == numbers.itemsize and not numbers.swapped:
        widen_numbers(numbers.data + first * numbers.itemsize, numbers.storage, to, count)
        return
    move_numbers(numbers, axes, first, count, &items[0], False)
    widen_numbers(&items[0], numbers.storage, to, count)


cdef void repeat_rows(const real* rows, Py_ssize_t size, Py_ssize_t begin, real* to,
                      Py_ssize_t count) noexcept nogil:
    # Repeats each number `size` times, starting with repeat `begin` of the first. What is written past the end of one
    # is overwritten by the next.
    cdef vec[real] x
    cdef Py_ssize_t i = 0, stop = size - begin
    while i < count:
        x = splat(rows[0])
        stop = min_size(stop, count)
        while i < stop:
            store(to + i, x)
            i += lanes(<real> 0)
        i = stop
        stop += size
        rows += 1


cdef real* read_numbers(const Numbers* numbers, Py_ssize_t first, Py_ssize_t count,
                        real* buffer) noexcept nogil:
    # A chunk in the working precision: in place, or in the buffer, followed by zeros up to a whole vector.
    cdef real rows[BUFFER]
    cdef int last = numbers.axes - 1
    cdef Py_ssize_t size, row
    if count == chunk_elements(<real> 0) and is_of(numbers, <real> 0):
        return <real*> numbers.data + first
    if numbers.axis[last].stride == 0:  # one number for several neighbours or for all
        size = numbers.axis[last].size
        row = first // size
        read_leading(numbers, max_size(last, 1), row, (first + count - 1) // size - row + 1, &rows[0])
        repeat_rows(<const real*> &rows[0], size, first - row * size, buffer, count)
    else:
        read_leading(numbers, last + 1, first, count, buffer)
    fill(buffer, count, count + 16, <real> 0)
    return buffer


cdef void write_numbers(const Numbers* numbers, Py_ssize_t first, Py_ssize_t count, const real* buffer,
                        bint streams) noexcept nogil:
    cdef char items[8 * ELEMENTS]
    cdef char* at = numbers.data + first * numbers.itemsize
    if not is_one_run(numbers):
        narrow_numbers(buffer, &items[0], numbers.storage, count)
        move_numbers(numbers, numbers.axes, first, count, &items[0], True)
    elif streams and is_of(numbers, <real> 0):
        stream(<real*> at, buffer, 0, count, False)
    else:
        narrow_numbers(buffer, at, numbers.storage, count)


# -------------------------------------------------------------------------------------- from NumPy

cdef int storage_of_numbers(cnp.ndarray array):
    cdef int number = cnp.PyArray_TYPE(array), size = <int> cnp.PyArray_ITEMSIZE(array), signed
    if number == cnp.NPY_BOOL:
        return BOOL
    if not cnp.PyTypeNum_ISINTEGER(number):
        return known_storage(array)
    signed = INT8 if size == 1 else INT16 if size == 2 else INT32 if size == 4 else INT64
    return signed + <int> cnp.PyTypeNum_ISUNSIGNED(number)


cdef bint set_numbers(Numbers* numbers, Axis* axis, cnp.ndarray array, int ndim, const cnp.npy_intp* shape):
    # Broadcasts an array to a shape. False if that is impossible, or if no kernel takes its type.
    cdef int missing = ndim - cnp.PyArray_NDIM(array), i
    cdef Py_ssize_t size, stride
    cdef Axis* before
    numbers.data = <char*> cnp.PyArray_DATA(array)
    numbers.storage = storage_of_numbers(array)
    numbers.itemsize = <int> cnp.PyArray_ITEMSIZE(array)
    numbers.swapped = not cnp.PyArray_ISNOTSWAPPED(array)
    numbers.axes = 0
    numbers.axis = axis
    if missing < 0 or numbers.storage == NO_STORAGE:
        return False
    for i in range(ndim):
        size = shape[i]
        stride = 0
        if i >= missing and cnp.PyArray_DIM(array, i - missing) != 1:
            if cnp.PyArray_DIM(array, i - missing) != size:
                return False
            stride = cnp.PyArray_STRIDE(array, i - missing)
        if size == 1:
            continue
        before = axis + numbers.axes - 1
        if numbers.axes and before.stride == stride * size:
            before.size *= size
            before.stride = stride
        else:
            axis[numbers.axes].size = size
            axis[numbers.axes].stride = stride
            numbers.axes += 1
    if numbers.axes == 0:
        axis.size = 1
        axis.stride = 0
        numbers.axes = 1
    return True
