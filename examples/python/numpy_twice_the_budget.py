#!/usr/bin/env python3
"""A NumPy array of twice the budget: filled, summed, sorted in place by blocks, and checked.

    PYTHONPATH=python python3 examples/python/numpy_twice_the_budget.py [BUDGET_MIB]

What does not fit is compressed, or goes to an unlinked file; the array does not know. (Under
`buoy run` instead, NumPy's own arrays are inside the budget, and the program needs no change.)
"""
import sys

import buoy
import numpy as np

MIB = 1 << 20


def resident_kib():
    """Anonymous memory of this process as the kernel counts it: interpreter, NumPy and pool."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


def main():
    budget = int(sys.argv[1]) * MIB if len(sys.argv) > 1 else 64 * MIB
    with buoy.Pool(budget, backing_file="auto") as pool:
        before = resident_kib()
        array = np.frombuffer(pool.map(2 * budget).view, dtype=np.uint32)

        # A permutation of 0 ... n-1, a block at a time, so that NumPy's own temporaries stay small.
        n, block = len(array), MIB // 4
        step = 2 * (n // 3) + 1  # odd, so that it visits all of a power of two
        for at in range(0, n, block):
            array[at:at + block] = (np.arange(at, at + block, dtype=np.uint64) * step) % n
        assert int(array.sum(dtype=np.uint64)) == n * (n - 1) // 2, "the sum is wrong"

        for at in range(0, n, block):
            array[at:at + block].sort()
        for at in range(0, n, block):
            wanted = np.sort((np.arange(at, at + block, dtype=np.uint64) * step) % n)
            assert np.array_equal(array[at:at + block], wanted), f"the block at {at} is wrong"

        stats = pool.stats()
        assert stats["resident_peak_bytes"] <= budget, "more was resident than the budget"
        print(f"an array of {array.nbytes // MIB} MiB in a budget of {budget // MIB} MiB: "
              f"all right; resident at most {stats['resident_peak_bytes'] // MIB} MiB, "
              f"{stats['pswpout']} pages out, {stats['pswpin']} back in, "
              f"the process grew by {(resident_kib() - before) // 1024} MiB")
        del array
    return 0


if __name__ == "__main__":
    sys.exit(main())
