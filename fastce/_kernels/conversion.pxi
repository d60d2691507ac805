# Conversion between numbers of any storage and the working precision.
# Needs batch.pxi.

cdef void widen_to_float(const char* source, int storage, float* to, Py_ssize_t count) noexcept nogil:
    # From storages whose numbers become floats without rounding. The last numbers, if they do not fill a vector, are
    # converted in a buffer, whose other lanes are uninitialised. narrow() does the same.
    cdef Py_ssize_t i = 0
    cdef float buffer[16]
    cdef half pending_half[16]
    cdef bfloat16 pending_bfloat16[16]
    if storage == FLOAT32:
        memcpy(to, source, count * sizeof(float))
    elif storage == FLOAT16:
        while i + lanes(<float> 0) <= count:
            store(to + i, load_half(<const half*> source + i))
            i += lanes(<float> 0)
        if i < count:
            memcpy(pending_half, <const half*> source + i, (count - i) * sizeof(half))
            store(buffer, load_half(pending_half))
            memcpy(to + i, buffer, (count - i) * sizeof(float))
    else:
        while i + lanes(<float> 0) <= count:
            store(to + i, load_bfloat16(<const bfloat16*> source + i))
            i += lanes(<float> 0)
        if i < count:
            memcpy(pending_bfloat16, <const bfloat16*> source + i, (count - i) * sizeof(bfloat16))
            store(buffer, load_bfloat16(pending_bfloat16))
            memcpy(to + i, buffer, (count - i) * sizeof(float))


cdef void widen(const char* source, int storage, real* to, Py_ssize_t count) noexcept nogil:
    # Converts `count` contiguous numbers of any storage to the working precision.
    cdef Py_ssize_t i = 0, k
    cdef float buffer[16]
    if storage == native_storage(<real> 0):
        memcpy(to, source, count * sizeof(real))
    elif storage == FLOAT64:
        if real is float:
            while i + lanes(<float> 0) <= count:
                store(to + i, load_narrowed(<const double*> source + i, <float> 0))
                i += lanes(<float> 0)
            for i in range(i, count):
                to[i] = <float> read(<const double*> source + i)
    elif real is float:
        widen_to_float(source, storage, to, count)
    else:
        while i < count:
            widen_to_float(source + i * storage_size(storage), storage, &buffer[0], min_size(16, count - i))
            for k in range(min_size(16, count - i)):
                to[i + k] = buffer[k]
            i += 16


cdef void narrow(const real* source, char* to, int storage, Py_ssize_t count) noexcept nogil:
    # The reverse of widen, rounding to nearest.
    cdef Py_ssize_t i = 0
    cdef float buffer[16]
    cdef half pending_half[16]
    cdef bfloat16 pending_bfloat16[16]
    if storage == FLOAT32 or storage == FLOAT64:
        memcpy(to, source, count * sizeof(real))
    elif real is float:
        if storage == FLOAT16:
            while i + lanes(<real> 0) <= count:
                store_half(<half*> to + i, load(source + i))
                i += lanes(<real> 0)
            if i < count:
                memcpy(buffer, source + i, (count - i) * sizeof(float))
                store_half(pending_half, load(<const float*> buffer))
                memcpy(<half*> to + i, pending_half, (count - i) * sizeof(half))
        else:
            while i + lanes(<real> 0) <= count:
                store_bfloat16(<bfloat16*> to + i, load(source + i))
                i += lanes(<real> 0)
            if i < count:
                memcpy(buffer, source + i, (count - i) * sizeof(float))
                store_bfloat16(pending_bfloat16, load(<const float*> buffer))
                memcpy(<bfloat16*> to + i, pending_bfloat16, (count - i) * sizeof(bfloat16))
