"""The C library: where it is, its functions, and its errors as OSError."""
import ctypes
import errno as _errno
import os
import pathlib

PAGE = 4096  # bytes
_SONAME = "libbuoy.so.0"


class Options(ctypes.Structure):
    """struct buoy_options."""
    _fields_ = [("struct_size", ctypes.c_size_t), ("budget", ctypes.c_size_t),
                ("backing_file", ctypes.c_char_p), ("compressor", ctypes.c_char_p),
                ("faults", ctypes.c_int), ("on_exhausted", ctypes.c_int),
                ("contiguous_reserve", ctypes.c_size_t)]


_POINTER, _SIZE, _INT, _UNSIGNED = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
_FUNCTIONS = {
    "buoy_pool_create": (_INT, [ctypes.POINTER(Options), ctypes.POINTER(_POINTER)]),
    "buoy_pool_destroy": (_INT, [_POINTER]),
    "buoy_pool_resize": (_INT, [_POINTER, _SIZE]),
    "buoy_pool_reclaim": (ctypes.c_ssize_t, [_POINTER, _SIZE]),
    "buoy_pool_stat": (_INT, [_POINTER, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64)]),
    "buoy_stat_name": (ctypes.c_char_p, [_SIZE]),
    "buoy_pool_eventfd": (_INT, [_POINTER]),
    "buoy_compact": (_INT, [_POINTER]),
    "buoy_map": (_POINTER, [_POINTER, _SIZE, _UNSIGNED]),
    "buoy_unmap": (_INT, [_POINTER, _SIZE]),
    "buoy_advise": (_INT, [_POINTER, _SIZE, _INT]),
    "buoy_mark_volatile": (ctypes.c_ssize_t, [_POINTER, _SIZE, _INT]),
    "buoy_mark_nonvolatile": (ctypes.c_ssize_t, [_POINTER, _SIZE, ctypes.POINTER(_INT)]),
    "buoy_pin": (_INT, [_POINTER, _SIZE, _UNSIGNED]),
    "buoy_unpin": (_INT, [_POINTER, _SIZE, _UNSIGNED]),
    "buoy_residency": (_INT, [_POINTER, _SIZE, _POINTER]),
}

# What an error of a function means, as buoy.h says it; for all others, strerror has the word.
_MEANINGS = {
    ("buoy_pool_create", _errno.EINVAL): "a bad option; the budget is 16 MiB or more, the reserve at most half of it",
    ("buoy_pool_create", _errno.EPERM): "userfaultfd is not allowed here; `buoy info` says what to do",
    ("buoy_pool_create", _errno.ENOSYS): "this kernel has no userfaultfd; `buoy info` says what to do",
    ("buoy_pool_create", _errno.EOPNOTSUPP): "this kernel's userfaultfd is too old; `buoy info` says what to do",
    ("buoy_pool_create", _errno.EBUSY): "the process has the most pools it can have",
    ("buoy_pool_destroy", _errno.EBUSY): "memory of the pool is still mapped",
    ("buoy_pool_resize", _errno.EAGAIN): "not enough could be reclaimed; the budget is as it was",
    ("buoy_pool_resize", _errno.EINVAL): "the budget is 16 MiB or more",
    ("buoy_advise", _errno.EINVAL): "a misaligned range, or one with mlocked pages",
    ("buoy_advise", _errno.EAGAIN): "the budget has no room for these pages",
    ("buoy_advise", _errno.EIO): "a page is lost or purged",
    ("buoy_pin", _errno.EAGAIN): "the budget cannot hold the pinned range",
    ("buoy_pin", _errno.EIO): "a page is lost or purged",
}


def _candidates():
    """Where the library may be: named; in a source tree's build folder, or installed beside this module;
    anywhere. Nowhere else: what lies beside a source tree may be anybody's."""
    named = os.environ.get("BUOY_LIBRARY")
    if named:
        return [named]
    here = pathlib.Path(__file__).resolve()
    if here.parents[1].name == "python":  # a source tree
        found = [here.parents[2] / "build" / "release" / _SONAME]
    else:
        libraries = here.parents[3]  # lib/python3/dist-packages/buoy/_library.py
        found = [libraries / _SONAME, *sorted(libraries.glob(f"*/{_SONAME}")), libraries.parent / "lib64" / _SONAME]
    return [str(path) for path in found if path.exists()] + [_SONAME]


def _load():
    # `buoy run`, or a program that is linked with the library: there is an engine already, and it sees
    # the program's calls of sigaction.
    process = ctypes.CDLL(None, use_errno=True)
    if hasattr(process, "buoy_stat_name"):
        return process
    candidates = _candidates()
    for path in candidates:
        try:
            return ctypes.CDLL(path, use_errno=True)
        except OSError as error:
            why = error
    raise ImportError(f"{why}; install libbuoy, or name it: BUOY_LIBRARY=/path/{_SONAME}")


class Closing:
    """`with` for what has close()."""

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.close()
        except BufferError:
            # An exception keeps the views of the frames that it passed; what has them goes after them.
            if kind is None:
                raise


_library = _load()
for _name, (_result, _arguments) in _FUNCTIONS.items():
    _function = getattr(_library, _name)
    _function.restype, _function.argtypes = _result, _arguments


def failed(name):
    """The OSError for the call that just failed in this thread."""
    code = ctypes.get_errno()
    text = os.strerror(code)
    meaning = _MEANINGS.get((name, code))
    return OSError(code, f"{name}: {text}" + (f": {meaning}" if meaning else ""))


def call(name, *arguments):
    """Calls a function that answers with a number, or a pointer. OSError: it answered -1, or NULL."""
    result = getattr(_library, name)(*arguments)
    if result is None or result == -1:
        raise failed(name)
    return result


def stat_names():
    """The names of all statistics."""
    names = []
    while (name := _library.buoy_stat_name(len(names))) is not None:
        names.append(name.decode())
    return names


def read_stat(pool, name):
    """A counter or gauge of the pool, by name; bytes where the name ends so. OSError ENOENT: unknown."""
    value = ctypes.c_uint64()
    call("buoy_pool_stat", pool, name.encode(), ctypes.byref(value))
    return value.value
