"""Functions of NumPy arrays that JAX calls through XLA's foreign function interface.

XLA passes the addresses of its arrays and of the results, so nothing is copied and nothing waits
for a thread. (`jax.pure_callback` converts its arguments to JAX arrays. For large ones it needs a
thread, and hangs if the only thread is busy with the callback itself.)

The structures are the parts of ``xla/ffi/api/c_api.h``, version 0, that are used here, with the
same field names.
"""

import atexit
import contextlib
import ctypes
import hashlib
import math
import os
import threading
import time
from collections.abc import Callable
from ctypes import POINTER, Structure, c_char, c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from fastce._call import variants
from fastce._call.layout import Array

# Takes the arrays, and the results to be written in place.
Function = Callable[[list[Array], list[Array]], None]

TARGET = "fastce_call"
API_MAJOR, API_MINOR = 0, 1  # the first with everything used here; XLA checks that it supports it
METADATA = 1  # the extension with which XLA asks for the version, instead of making a call
EXECUTE = 3  # the stage in which the arrays hold numbers

# The dtypes by XLA's numbers.
TYPES = {
    1: "bool",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "uint8",
    7: "uint16",
    8: "uint32",
    9: "uint64",
    10: "float16",
    11: "float32",
    12: "float64",
    16: "bfloat16",  # NumPy knows it by its name as soon as JAX is imported
}


# XLA's structures ---------------------------------------------------------------------------------


class Sized(Structure):
    """The common head of all structures."""

    _fields_ = [("struct_size", c_size_t), ("extension_start", c_void_p)]


class Version(Sized):
    _fields_ = [("major_version", c_int), ("minor_version", c_int)]


class Metadata(Structure):
    _fields_ = [("struct_size", c_size_t), ("api_version", Version)]


class Extension(Structure):
    _fields_ = [("struct_size", c_size_t), ("type", c_int), ("next", c_void_p)]


class MetadataExtension(Structure):
    _fields_ = [("extension_base", Extension), ("metadata", POINTER(Metadata))]


class Buffer(Sized):
    _fields_ = [
        ("dtype", c_int),
        ("data", c_void_p),
        ("rank", c_int64),
        ("dims", POINTER(c_int64)),
    ]

    def array(self) -> Array:
        """View the buffer as an array."""
        shape = tuple(self.dims[: self.rank])
        dtype, memory = _memory(self.dtype, shape)
        return np.ndarray(shape, dtype, memory.from_address(self.data or 0))


@lru_cache
def _memory(code: int, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the dtype of an XLA array and that of its memory."""
    dtype = np.dtype(TYPES[code])
    return dtype, c_char * (math.prod(shape) * dtype.itemsize)


class Arguments(Sized):
    _fields_ = [
        ("size", c_int64),
        ("types", POINTER(c_int)),
        ("args", POINTER(POINTER(Buffer))),
    ]

    def arrays(self) -> list[Array]:
        buffers = self.args
        return [buffers[i].contents.array() for i in range(self.size)]


class Results(Sized):
    _fields_ = [
        ("size", c_int64),
        ("types", POINTER(c_int)),
        ("rets", POINTER(POINTER(Buffer))),
    ]

    def arrays(self) -> list[Array]:
        buffers = self.rets
        return [buffers[i].contents.array() for i in range(self.size)]


class Scalar(Structure):
    _fields_ = [("dtype", c_int), ("value", POINTER(c_int64))]


class Text(Structure):
    _fields_ = [("ptr", c_void_p), ("len", c_size_t)]


class Attributes(Sized):
    """The attributes of a call, in the order of their names: ``digest``, ``function``."""

    _fields_ = [
        ("size", c_int64),
        ("types", POINTER(c_int)),
        ("names", c_void_p),
        ("attrs", POINTER(c_void_p)),
    ]

    def digest(self) -> int:
        number: int = Scalar.from_address(self.attrs[0]).value[0]
        return number

    def function(self) -> str:
        text = Text.from_address(self.attrs[1])
        return ctypes.string_at(text.ptr, text.len).decode()


class CallFrame(Sized):
    _fields_ = [
        ("api", c_void_p),
        ("ctx", c_void_p),
        ("stage", c_int),
        ("args", Arguments),
        ("rets", Results),
        ("attrs", Attributes),
    ]


# Calls --------------------------------------------------------------------------------------------

# A function is identified by a digest of its text, which is quick to read. A call also contains the
# text, because compiled code may run in another process, which has to find the same function.
_functions: dict[int, Function] = {}
_read: Callable[[str], Function]
_thread = threading.local()


def _handle(address: int) -> None:
    """Handle a call of XLA."""
    frame = CallFrame.from_address(address)
    if frame.extension_start:
        extension = MetadataExtension.from_address(frame.extension_start)
        if extension.extension_base.type == METADATA:
            version = extension.metadata.contents.api_version
            version.major_version, version.minor_version = API_MAJOR, API_MINOR
            return
    if frame.stage != EXECUTE:
        return
    if not hasattr(_thread, "kept"):
        # Python would create and delete the state of an XLA thread in each call, which takes as
        # long as a small loss. An extra `Ensure` keeps the state.
        ctypes.pythonapi.PyGILState_Ensure()
        _thread.kept = True
    digest = frame.attrs.digest()
    function = _functions.get(digest)
    if function is None:
        function = _functions[digest] = _read(frame.attrs.function())
    function(frame.args.arrays(), frame.rets.arrays())


_calls = variants.core  # XLA keeps the address of a function in this module
_ffi: Any = jax.ffi
_ffi.register_ffi_target(TARGET, _calls.xla_target(_handle), platform="cpu")


@atexit.register
def _end_calls() -> None:
    """Wait for the calls that XLA's threads are making: they could not go on without Python."""
    _calls.end_xla_calls()
    while _calls.count_xla_calls() > 0:  # below 0 in a child that was forked inside a call
        time.sleep(0.001)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(_calls.count_xla_calls, none=True))


def read_functions(read: Callable[[str], Function]) -> None:
    """Register ``read``, which makes a function from the text in a call."""
    global _read
    _read = read


def call(function: str, results: list[tuple[tuple[int, ...], Any]], *arguments: Any) -> Any:
    """Call the function that a text describes, and return results of the given shapes and types.

    A vmap adds axes in front of all arrays.
    """
    outline_of: Any = jax.ShapeDtypeStruct
    outlines = [outline_of(shape, dtype) for shape, dtype in results]
    digest = np.frombuffer(hashlib.sha256(function.encode()).digest()[:8], np.int64)[0]
    evaluate = _ffi.ffi_call(TARGET, outlines, vmap_method="broadcast_all")
    axes = tuple(sorted(frozenset().union(*map(_varies_along, arguments))))
    arguments = tuple(_vary(array, axes) for array in arguments)
    with _mesh_of(arguments):
        returned = evaluate(*arguments, function=function, digest=digest)
    return [_vary(array, axes) for array in returned]


# Inside shard_map, the type of an array states along which axes of the mesh its values vary. All
# arguments of a call must agree on this, and XLA's interface does not set it for the results.


def _varies_along(array: Any) -> frozenset[str]:
    array_type: Any = jax.typeof(array) if hasattr(jax, "typeof") else None
    manual = getattr(array_type, "mat", None)  # since JAX 0.10; before, the type had `vma`
    varying: frozenset[str] = (
        getattr(array_type, "vma", frozenset()) if manual is None else manual.varying
    )
    return varying


def _vary(array: Any, axes: tuple[str, ...]) -> Any:
    missing = tuple(axis for axis in axes if axis not in _varies_along(array))
    if not missing:
        return array
    lax: Any = jax.lax
    if hasattr(lax, "pcast"):
        return lax.pcast(array, missing, to="varying")
    return lax.pvary(array, missing)


def _mesh_of(arguments: tuple[Any, ...]) -> contextlib.AbstractContextManager[Any]:
    """Return a context that gives results the mesh of the arguments, as `jax.set_mesh` does."""
    sharding: Any = jax.sharding
    if hasattr(sharding, "use_abstract_mesh"):
        meshes = [jax.typeof(array).sharding.mesh for array in arguments]
        for mesh in meshes:
            if not mesh.empty:
                context: contextlib.AbstractContextManager[Any] = sharding.use_abstract_mesh(mesh)
                return context
    return contextlib.nullcontext()


def sharded_like(array: Any, like: Any) -> Any:
    """Return an array with the sharding of another, if JAX keeps it in the type of an array."""
    if not hasattr(jax, "typeof"):
        return array
    wanted: Any = jax.typeof(like)
    if jax.typeof(array) == wanted:
        return array
    sharding: Any = jax.sharding
    return sharding.reshard(array, wanted.sharding)
