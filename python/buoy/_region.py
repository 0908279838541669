"""Regions: mapped memory of a pool, as memoryviews."""
import contextlib
import ctypes
import enum
import sys
import weakref

from buoy._library import PAGE, Closing, call


class Advice(enum.IntEnum):
    """What buoy_advise is told about a range."""
    FREE = 1  # contents may vanish until the next store
    REUSE = 2  # about to write all of this
    DONTNEED = 3  # contents are gone now; reads give zeros
    COLD = 4  # reclaim these first
    PAGEOUT = 5  # reclaim these now
    WILLNEED = 6  # bring these in now, as far as there is room
    FREE_UNTIL_REUSE = 16  # FREE, and no store before REUSE: one that comes may be lost
    POPULATE = 17  # all of these are there and may be stored to without a fault


class Page(enum.IntEnum):
    """Where a page is, as Region.residency says; VOLATILE is or'ed in."""
    EMPTY = 0
    MAPPED = 1
    LAZYFREE = 2
    STANDBY = 3
    COMPRESSED = 4
    BACKED = 5
    PURGED = 6
    VOLATILE = 0x80


DROPPABLE, HUGE, PURGED_READS_ZERO, VOLATILE_MAY_COMPRESS = 1, 2, 4, 8  # buoy_map's flags
_PIN_WRITE, _UNPIN_DIRTIED = 1, 2


def _unmap(handle, address, length):
    """When nothing refers to the memory any more. `handle` keeps the pool until here."""
    call("buoy_unmap", address, length)
    handle.mapped.discard(address)


class Region(Closing):
    """Mapped memory of a pool: `length` bytes of zeros, which cost nothing until they are touched.

    Made by Pool.map. Views of it, and whatever was made from them (slices, NumPy arrays), keep the
    memory mapped; close() insists that there are none.
    """

    def __init__(self, handle, length, flags=0):
        """For Pool.map. `length`: bytes, rounded up to pages. OSError: EINVAL, ENOMEM."""
        if length <= 0:
            raise ValueError("the length of a region is one byte or more")
        self._length = length
        self._mapped = -(-length // PAGE) * PAGE
        self._address = call("buoy_map", handle.pointer, self._mapped, flags)
        # The owner of the memory: all views refer to it, and when it goes, the mapping goes.
        self._memory = (ctypes.c_ubyte * length).from_address(self._address)
        handle.mapped.add(self._address)
        finalizer = weakref.finalize(self._memory, _unmap, handle, self._address, self._mapped)
        finalizer.atexit = False  # the process ends, and its memory with it

    def __len__(self):
        """Bytes."""
        return self._length

    @property
    def address(self):
        """Where the region begins. ValueError: it is closed."""
        self._owner()
        return self._address

    @property
    def view(self):
        """A writable memoryview of all bytes. ValueError: the region is closed."""
        return memoryview(self._owner()).cast("B")

    if sys.version_info >= (3, 12):
        def __buffer__(self, flags):
            return self.view

    def lend(self):
        """A writable memoryview, and a function that says whether anything refers to it or was made of it:
        slices, arrays. ValueError: the region is closed."""
        lent = (ctypes.c_ubyte * self._length).from_buffer(self._owner())
        return memoryview(lent).cast("B"), weakref.ref(lent)

    def _owner(self):
        if self._memory is None:
            raise ValueError("the region is closed")
        return self._memory

    def _range(self, offset, length):
        """The address and the length in whole pages of a range. ValueError: not inside the region."""
        self._owner()
        length = self._length - offset if length is None else length
        if offset < 0 or length <= 0 or offset + length > self._mapped:
            raise ValueError(f"bytes {offset} to {offset + length} are not inside of {self._length}")
        return self._address + offset, length

    def advise(self, advice, offset=0, length=None):
        """Says what a range will be used for: an Advice. `offset` is a multiple of PAGE, `length` is
        bytes, rounded up to pages; all of the region if not given. OSError: EINVAL misaligned, or mlocked
        pages; for POPULATE EAGAIN no room in the budget, EIO a page is lost."""
        call("buoy_advise", *self._range(offset, length), int(advice))

    def residency(self, offset=0, length=None):
        """Where each page of a range is: a byte a page, Page. OSError: EINVAL misaligned."""
        address, length = self._range(offset, length)
        pages = (ctypes.c_ubyte * -(-length // PAGE))()
        call("buoy_residency", address, length, ctypes.addressof(pages))
        return bytes(pages)

    @contextlib.contextmanager
    def pinned(self, offset=0, length=None, *, write=False):
        """Keeps a range resident and in place, for system calls and devices: `with region.pinned(0, 4096,
        write=True) as view: file.readinto(view)`. The view is released at the end. `write`: the kernel
        will store to it. `offset` is a multiple of PAGE, `length` is bytes.
        OSError: EAGAIN the budget cannot hold it; EIO a page is lost or purged."""
        address, length = self._range(offset, length)
        call("buoy_pin", address, length, _PIN_WRITE if write else 0)
        try:
            with self.view[offset:offset + length] as view:
                yield view
        finally:
            call("buoy_unpin", address, length, _UNPIN_DIRTIED if write else 0)

    def mark_volatile(self, priority=0):
        """All of the region may be purged from now on: lower priorities (0 to 3) first. Touching a purged
        page is a bus error, unless the region was mapped with purged_reads_zero. OSError: EINVAL a bad
        priority, or mlocked pages."""
        call("buoy_mark_volatile", self._range(0, None)[0], self._mapped, priority)

    def mark_nonvolatile(self):
        """All of the region is kept again. True: nothing was lost; False: some pages were, and read zeros.
        OSError: ENOMEM."""
        self._owner()
        purged = ctypes.c_int()
        call("buoy_mark_nonvolatile", self._address, self._mapped, ctypes.byref(purged))
        return not purged.value

    def close(self):
        """Unmaps the memory. BufferError, and nothing is changed: a view, a slice or an array still refers
        to it. A second call does nothing."""
        if self._memory is None:
            return
        alive = weakref.ref(self._memory)
        self._memory = None
        memory = alive()
        if memory is not None:
            self._memory = memory
            raise BufferError("the region's memory is still in use: a view of it, or what was made of one")
