"""Pool: a budget, the regions inside of it, and the tiers below."""
import ctypes
import os
import threading
import weakref

from buoy import _library
from buoy._library import Closing, Options, call
from buoy._purgeable import PurgeableBuffer
from buoy._region import DROPPABLE, HUGE, PURGED_READS_ZERO, VOLATILE_MAY_COMPRESS, Region

_FAULTS = {"auto": 0, "signal": 1, "thread": 2}
_EXHAUSTED = {"sigbus": 0, "wait": 1, "enomem": 2}


def _one_of(words, word, what):
    if word not in words:
        raise ValueError(f"{what} is {word!r}, none of {', '.join(words)}")
    return words[word]


class _Handle:
    """The library's pool. Mapped memory refers to it, so it goes after the last of that."""

    def __init__(self, options):
        self.pointer = ctypes.c_void_p()
        self.mapped = set()  # where regions begin; adding and discarding are atomic
        call("buoy_pool_create", ctypes.byref(options), ctypes.byref(self.pointer))

    def close(self):
        if self.pointer:
            call("buoy_pool_destroy", self.pointer)
            self.pointer = ctypes.c_void_p()

    def __del__(self):
        # Nobody is left who could be told of an error; there is none without regions.
        if self.pointer and not self.mapped:
            self.close()


class Pool(Closing):
    """A budget of resident memory, and the regions inside of it.

    `budget`: bytes, 16 MiB or more. `backing_file`: where compressed pages go when memory is full:
    None nowhere, "auto" an unlinked file in $TMPDIR, or a path that does not exist yet. `compressor`:
    "lz4", "zstd" or "none". `faults`: "auto"; "thread" (the same here, but refused where faults of
    system calls cannot be served); "signal", which wants SIGBUS left alone, by faulthandler too.
    `on_exhausted`: what happens to who touches a page when nothing more fits anywhere: "sigbus", death
    with a line on stderr; "wait" until something is freed (the interpreter's lock is held meanwhile,
    so no other thread of Python can free it); "enomem", as "sigbus", but `map` and its kin are an OSError
    with ENOMEM where the pages might not be had. `contiguous_reserve`: bytes, at most half of the budget.

    ValueError: an unknown word. OSError: EINVAL a bad number; EPERM or ENOSYS the kernel does not
    allow it (the text says what to do); the backing file's own errno if it cannot be used.
    """

    def __init__(self, budget, *, backing_file=None, compressor="lz4", faults="auto",
                 on_exhausted="sigbus", contiguous_reserve=0):
        options = Options(
            struct_size=ctypes.sizeof(Options), budget=budget,
            backing_file=None if backing_file is None else os.fsencode(backing_file),
            compressor=compressor.encode(), faults=_one_of(_FAULTS, faults, "faults"),
            on_exhausted=_one_of(_EXHAUSTED, on_exhausted, "on_exhausted"),
            contiguous_reserve=contiguous_reserve)
        self._handle = _Handle(options)
        self._mapped = weakref.WeakSet()
        self._lock = threading.Lock()

    def _open(self):
        if self._handle is None:
            raise ValueError("the pool is closed")
        return self._handle

    def _add(self, made):
        with self._lock:
            self._mapped.add(made)
        return made

    def map(self, length, *, droppable=False, huge=False, purged_reads_zero=False, may_compress=False):
        """A Region of `length` bytes of zeros. It may be far larger than the budget, and costs nothing until
        it is touched. `droppable`: may be dropped at any time, and reads zeros then. `huge`: prefer huge
        pages. `purged_reads_zero`: what was purged while it was volatile reads zeros rather than being a
        bus error. `may_compress`: volatile pages may be compressed first. OSError: ENOMEM no address
        space. ValueError: no length, or closed."""
        flags = (DROPPABLE * droppable | HUGE * huge | PURGED_READS_ZERO * purged_reads_zero |
                 VOLATILE_MAY_COMPRESS * may_compress)
        return self._add(Region(self._open(), length, flags))

    def purgeable(self, length, *, priority=0, may_compress=False):
        """A PurgeableBuffer of `length` bytes, not filled yet. `priority` 0 (purged first) to 3.
        OSError: EINVAL a bad priority; ENOMEM. ValueError: no length, or closed."""
        return self._add(PurgeableBuffer(self._open(), length, priority, may_compress))

    @property
    def budget(self):
        """Bytes. Assigning resizes: growing is at once, shrinking reclaims first. OSError: EAGAIN not enough
        could be reclaimed, and the budget is as it was; EINVAL below 16 MiB."""
        return self.stat("budget_bytes")

    @budget.setter
    def budget(self, size):
        call("buoy_pool_resize", self._open().pointer, size)

    def reclaim(self, size):
        """Reclaims about `size` bytes ahead of need; the bytes freed. OSError: EINVAL."""
        return call("buoy_pool_reclaim", self._open().pointer, size)

    def compact(self):
        """Moves the pool's own pages together and gives empty blocks back. Waits. OSError: EINVAL."""
        call("buoy_compact", self._open().pointer)

    def eventfd(self):
        """The descriptor that tells of purges and of rising pressure, for select and read; the pool's own,
        not to be closed. OSError: ENOMEM, EMFILE."""
        return call("buoy_pool_eventfd", self._open().pointer)

    def stat(self, name):
        """One counter or gauge, by name; bytes where the name ends so. OSError: ENOENT no such name."""
        return _library.read_stat(self._open().pointer, name)

    def stats(self):
        """All counters and gauges: a dict by name, in bytes where the name ends so, else in times or pages.
        The names are those of `buoy run --stats`."""
        pointer = self._open().pointer
        return {name: _library.read_stat(pointer, name) for name in _library.stat_names()}

    def close(self):
        """Unmaps all regions and buffers, and ends the pool. BufferError: a view is still in use; the pool
        stays open, and what was unmapped is gone. A second call does nothing."""
        if self._handle is None:
            return
        with self._lock:
            mapped = list(self._mapped)
        for each in mapped:
            each.close()
        if self._handle.mapped:
            raise BufferError("memory of a region that is gone is still in use: a view, or what was made of one")
        self._handle.close()
        self._handle = None
