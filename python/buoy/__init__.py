"""Memory within a budget: Buoy's C library for Python, by ctypes.

    import buoy

    with buoy.Pool(256 << 20, backing_file="auto") as pool:
        region = pool.map(1 << 30)            # 1 GiB of address space in 256 MiB
        region.view[0:5] = b"hello"           # a memoryview; numpy.frombuffer(region.view) works, too
        print(pool.stats()["resident_bytes"])

All lengths and offsets are bytes; offsets and lengths of ranges are multiples of PAGE unless a
function says otherwise. A call of the library that fails raises OSError with its errno, and a text that
says which call and why. Everything is thread-safe, but closing what another thread uses is not.

Pages that do not fit into the budget are compressed, or written to the backing file, and come back when
they are touched: reading and writing a view is as reading and writing any memory. System calls on a view
(file.readinto, socket.recv_into, os.write) are served where the process has the right to handle faults of
the kernel (`buoy info`); elsewhere they fail with EFAULT unless the range is pinned (Region.pinned).

Faults are handled by threads of the library, so that no SIGBUS handler matters: faulthandler and
signal.signal may do what they like, before and after.
"""
from buoy._library import PAGE
from buoy._pool import Pool
from buoy._purgeable import PurgeableBuffer
from buoy._region import Advice, Page, Region

__all__ = ["Advice", "PAGE", "Page", "Pool", "PurgeableBuffer", "Region"]
__version__ = "0.1.0"
