"""PurgeableBuffer: contents that can be made again, and may be lost while nobody uses them."""
import contextlib
import threading

from buoy._region import PURGED_READS_ZERO, VOLATILE_MAY_COMPRESS, Region


class PurgeableBuffer:
    """`length` bytes that the pool may take away while they are not locked, rather than compress them.

        thumbnail = pool.purgeable(1 << 20)
        with thumbnail.locked() as (view, intact):
            if not intact:                      # never filled, or taken away: fill it again
                view[:] = render()
            use(view)

    Made by Pool.purgeable. A thread that has it locked has it alone.
    """

    def __init__(self, handle, length, priority=0, may_compress=False):
        """For Pool.purgeable. OSError: EINVAL a bad priority; ENOMEM."""
        flags = PURGED_READS_ZERO | (VOLATILE_MAY_COMPRESS if may_compress else 0)
        self._region = Region(handle, length, flags)
        self._priority = priority
        self._lock = threading.RLock()
        self._depth = 0
        self._intact = False  # filled, and not lost since
        self._region.mark_volatile(priority)

    def __len__(self):
        """Bytes."""
        return len(self._region)

    @contextlib.contextmanager
    def locked(self):
        """The contents, which stay as long as the block lasts: (view, intact), a writable memoryview, and
        whether it holds what the last block left there; otherwise it is to be filled. The view is
        released at the end; slices of it and arrays made of it must be gone by then. A block that ends
        by an exception leaves nothing. ValueError: closed. BufferError: something made of the view is
        still there, so that the contents stay locked for good."""
        with self._lock:
            if self._depth == 0:
                self._intact = self._region.mark_nonvolatile() and self._intact
            self._depth += 1
            filled = False
            view, in_use = self._region.lend()
            try:
                yield view, self._intact
                filled = True
            finally:
                self._intact = filled
                view.release()
                if not in_use():
                    self._depth -= 1
                    if self._depth == 0:
                        self._region.mark_volatile(self._priority)
            # (Where the block ended by an exception, that is told instead.)
            if in_use():
                raise BufferError("the buffer's memory is still in use: a slice, or what was made of the view")

    def close(self):
        """Unmaps the memory. BufferError, and nothing is changed: a view of it is in use. A second call
        does nothing."""
        self._region.close()
