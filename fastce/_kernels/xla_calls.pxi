# Calls that XLA makes through its foreign function interface, for fastce.jax. Python code handles them. Around it, two
# things need C: an exception of a signal handler, which Python raises before the first line of a function, and the end
# of the interpreter, which ends every thread that then waits for the GIL, so that XLA would wait forever.
# The structures are the parts of xla/ffi/api/c_api.h, version 0, that are used here.

from cpython.exc cimport PyErr_SetInterrupt
from cpython.pycapsule cimport PyCapsule_New
from libcpp.atomic cimport atomic

cdef struct XlaError:
    size_t struct_size
    void* extension_start
    const char* message
    int errc

cdef struct XlaVersion:
    size_t struct_size
    void* extension_start
    int major_version
    int minor_version

cdef struct XlaApi:
    size_t struct_size
    void* extension_start
    XlaVersion api_version
    void* internal_api
    void* (*XLA_FFI_Error_Create)(XlaError*) noexcept nogil

cdef struct XlaFrame:  # its first fields
    size_t struct_size
    void* extension_start
    const XlaApi* api

cdef enum:
    XLA_INTERNAL = 13  # the code of an internal error

cdef object xla_handler              # the function that handles calls, given the address of the frame
cdef atomic[int] xla_calls           # that are being handled
cdef atomic[int] xla_calls_end       # not 0 at the end of the interpreter: no call is handled any more


cdef void* xla_error(const XlaFrame* frame, const char* message) noexcept nogil:
    cdef XlaError error
    error.struct_size = sizeof(XlaError)
    error.extension_start = NULL
    error.message = message
    error.errc = XLA_INTERNAL
    return frame.api.XLA_FFI_Error_Create(&error)


cdef void* handle_in_python(const XlaFrame* frame) noexcept:
    # No exception can pass through XLA. An interrupt becomes an error of XLA, and also reaches the main thread.
    try:
        xla_handler(<size_t> frame)
        return NULL
    except BaseException as error:
        raised = error
    try:
        message = f"{type(raised).__name__}: {raised}".encode()
    except BaseException:
        message = b"an exception without a message"
    failure = xla_error(frame, message)
    if isinstance(raised, KeyboardInterrupt):
        PyErr_SetInterrupt()
    return failure


cdef void* handle_xla_call(const XlaFrame* frame) noexcept nogil:
    # NULL for success, or an error of XLA.
    cdef void* failure
    xla_calls.fetch_add(1)
    if xla_calls_end.load():
        failure = xla_error(frame, b"Python is exiting")
    else:
        with gil:
            failure = handle_in_python(frame)
    xla_calls.fetch_sub(1)
    return failure


def xla_target(handler):
    """Set the function that handles calls; return a capsule with the address that XLA calls."""
    global xla_handler
    xla_handler = handler
    return PyCapsule_New(<void*> handle_xla_call, NULL, NULL)


def count_xla_calls(bint none=False):
    """Return the number of calls that are being handled; with ``none``, it is 0 again, as after a fork."""
    if none:
        xla_calls.store(0)
    return xla_calls.load()


def end_xla_calls():
    """Let all further calls fail without waiting for Python."""
    xla_calls_end.store(1)
