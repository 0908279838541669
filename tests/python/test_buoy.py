"""The Python module: what pools and regions promise, and what happens to SIGBUS beside them.

Run by tests/run_python.sh, which sets PYTHONPATH, BUOY_LIBRARY and BUOY (the command)."""
import ctypes
import errno
import gc
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import threading
import unittest

import buoy
from buoy import _library

MIB = 1 << 20
BUDGET = 32 * MIB


def stamp(page, version=0):
    """Bytes of one page that compress by half, and are no other page's."""
    return hashlib.sha256(b"%d %d" % (page, version)).digest() * 64 + bytes(2048)


def stamp_all(view, version=0):
    for at in range(0, len(view), buoy.PAGE):
        view[at:at + buoy.PAGE] = stamp(at // buoy.PAGE, version)


def first_wrong(view, version=0):
    """The number of the first page that is not as stamped; None: all are."""
    for at in range(0, len(view), buoy.PAGE):
        if view[at:at + buoy.PAGE] != stamp(at // buoy.PAGE, version):
            return at // buoy.PAGE
    return None


def sigbus_handler():
    """The address of the handler that the kernel has for SIGBUS."""
    action = (ctypes.c_void_p * 32)()
    assert ctypes.CDLL(None).sigaction(int(signal.SIGBUS), None, action) == 0
    return action[0]


class Pools(unittest.TestCase):
    def setUp(self):
        self.pool = buoy.Pool(BUDGET, backing_file="auto")
        self.addCleanup(self.close)

    def close(self):
        gc.collect()
        self.pool.close()

    def test_twice_the_budget_comes_back_as_it_was(self):
        region = self.pool.map(2 * BUDGET)
        stamp_all(region.view)
        self.assertIsNone(first_wrong(region.view))
        stats = self.pool.stats()
        self.assertLessEqual(stats["resident_peak_bytes"], BUDGET)
        self.assertGreater(stats["pswpout"], 0)
        self.assertGreater(stats["pgfault"], 0)

    def test_statistics_are_those_of_the_command(self):
        command = os.environ["BUOY"]
        run = subprocess.run([command, "run", "--budget", "32M", "--stats", "-", "--", "/bin/true"],
                             capture_output=True, text=True, timeout=60, check=True)
        self.assertEqual(set(self.pool.stats()), set(json.loads(run.stderr.splitlines()[-1])))
        self.assertEqual(self.pool.stats()["budget_bytes"], BUDGET)

    def test_errors_are_oserrors_that_say_what_and_why(self):
        for call, code, words in (
                (lambda: buoy.Pool(4096), errno.EINVAL, ["buoy_pool_create", "16 MiB"]),
                (lambda: buoy.Pool(BUDGET, compressor="gzip"), errno.EINVAL, ["buoy_pool_create"]),
                (lambda: buoy.Pool(BUDGET, backing_file="/no/such/file"), errno.ENOENT, ["buoy_pool_create"]),
                (lambda: self.pool.map(1 << 60), errno.ENOMEM, ["buoy_map"]),
                (lambda: self.pool.stat("no_such_name"), errno.ENOENT, ["buoy_pool_stat"]),
                (lambda: self.pool.purgeable(4096, priority=9), errno.EINVAL, ["buoy_mark_volatile"]),
                (lambda: self.pool.map(8192).advise(buoy.Advice.COLD, 1, 4096), errno.EINVAL, ["buoy_advise"]),
        ):
            with self.assertRaises(OSError) as caught:
                call()
            self.assertEqual(caught.exception.errno, code)
            for word in words:
                self.assertIn(word, str(caught.exception))

    def test_wrong_words_and_ranges_are_value_errors(self):
        region = self.pool.map(8192)
        for call in (lambda: buoy.Pool(BUDGET, faults="never"), lambda: self.pool.map(0),
                     lambda: region.advise(buoy.Advice.COLD, 8192), lambda: region.residency(-4096, 4096)):
            self.assertRaises(ValueError, call)

    def test_memory_that_might_not_be_had_is_refused_if_asked_for(self):
        with buoy.Pool(BUDGET, on_exhausted="enomem") as pool:
            with self.assertRaises(OSError) as refused:
                pool.map(2 * BUDGET)
            self.assertEqual(refused.exception.errno, errno.ENOMEM)
            with pool.map(BUDGET // 2) as region:
                stamp_all(region.view)
                self.assertIsNone(first_wrong(region.view))
                with self.assertRaises(OSError):
                    pool.map(BUDGET)
            pool.map(BUDGET // 2).close()

    def test_budget_is_resized(self):
        region = self.pool.map(BUDGET)
        stamp_all(region.view)
        self.pool.budget = 16 * MIB
        self.assertEqual(self.pool.budget, 16 * MIB)
        self.assertLessEqual(self.pool.stat("resident_bytes"), 16 * MIB)
        self.assertIsNone(first_wrong(region.view))
        with self.assertRaises(OSError):
            self.pool.budget = 4096

    def test_advice_and_residency(self):
        region = self.pool.map(4 * buoy.PAGE)
        self.assertEqual(region.residency(), bytes([buoy.Page.EMPTY] * 4))
        region.view[buoy.PAGE:2 * buoy.PAGE] = stamp(1)
        self.assertEqual(region.residency(buoy.PAGE, buoy.PAGE), bytes([buoy.Page.MAPPED]))
        region.advise(buoy.Advice.PAGEOUT)
        self.assertIn(region.residency()[1], (buoy.Page.COMPRESSED, buoy.Page.BACKED))
        self.assertEqual(region.view[buoy.PAGE:2 * buoy.PAGE], stamp(1))
        region.advise(buoy.Advice.DONTNEED)
        self.assertEqual(bytes(region.view), bytes(4 * buoy.PAGE))

    def test_views_keep_the_memory(self):
        region = self.pool.map(2 * buoy.PAGE)
        part = region.view[10:20]
        part[:] = b"0123456789"
        self.assertRaises(BufferError, region.close)
        self.assertRaises(BufferError, self.pool.close)
        self.assertEqual(bytes(region.view[10:20]), b"0123456789")
        del region
        gc.collect()
        self.assertEqual(bytes(part), b"0123456789")

    def test_views_outlive_a_pool_that_nobody_has(self):
        pool = buoy.Pool(BUDGET)
        view = pool.map(buoy.PAGE).view
        view[:5] = b"hello"
        del pool
        gc.collect()
        self.assertEqual(bytes(view[:5]), b"hello")

    def test_closed_is_closed(self):
        pool = buoy.Pool(BUDGET)
        region, buffer = pool.map(buoy.PAGE), pool.purgeable(buoy.PAGE)
        pool.close()
        pool.close()
        for call in (lambda: region.view, lambda: region.residency(), lambda: pool.map(1),
                     lambda: pool.stats(), lambda: buffer.locked().__enter__()):
            self.assertRaises(ValueError, call)

    def test_many_pools_leave_nothing(self):
        before = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with buoy.Pool(BUDGET) as pool:
                pool.map(MIB).view[0] = 1
        self.assertEqual((len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))), before)

    def test_purgeable_contents_are_intact_or_known_to_be_lost(self):
        buffers = [self.pool.purgeable(4 * MIB) for _ in range(4)]
        for buffer in buffers:
            with buffer.locked() as (view, intact):
                self.assertFalse(intact)
                stamp_all(view)
        with buffers[0].locked() as (view, intact):
            self.assertTrue(intact)
            self.assertIsNone(first_wrong(view))
            self.pool.reclaim(BUDGET)  # the others', not this one's
            self.assertIsNone(first_wrong(view))
        lost = 0
        for buffer in buffers[1:]:
            with buffer.locked() as (view, intact):
                lost += not intact
                if intact:
                    self.assertIsNone(first_wrong(view))
                else:
                    stamp_all(view)
        self.assertGreater(lost, 0)

    def test_a_failed_fill_leaves_nothing(self):
        buffer = self.pool.purgeable(buoy.PAGE)
        with self.assertRaises(KeyError), buffer.locked() as (view, _):
            view[0] = 1
            raise KeyError
        with buffer.locked() as (_, intact):
            self.assertFalse(intact)

    def test_a_block_within_a_block_does_not_give_up_its_contents(self):
        buffer = self.pool.purgeable(MIB)
        with buffer.locked() as (view, _):
            stamp_all(view)
            with buffer.locked() as (inner, _):
                self.assertIsNone(first_wrong(inner))
            self.pool.reclaim(BUDGET)
            self.assertIsNone(first_wrong(view))
        with buffer.locked() as (view, intact):
            self.assertEqual(intact, first_wrong(view) is None)

    def test_an_exception_is_not_replaced_by_one_of_the_closing(self):
        with self.assertRaises(KeyError):
            with buoy.Pool(BUDGET) as pool, pool.map(buoy.PAGE) as region:
                view = region.view
                raise KeyError
        view[0] = 1  # still mapped

    def test_views_of_a_purgeable_buffer_end_with_the_block(self):
        buffer = self.pool.purgeable(buoy.PAGE)
        with buffer.locked() as (view, _):
            pass
        self.assertRaises(ValueError, lambda: view[0])
        with self.assertRaises(BufferError):
            with buffer.locked() as (view, _):
                part = view[10:20]
                part[:] = b"0123456789"
        self.pool.reclaim(BUDGET)
        self.assertEqual(bytes(part), b"0123456789")  # not given up under the slice

    def test_a_child_has_its_own_copy(self):
        region = self.pool.map(2 * BUDGET)
        stamp_all(region.view)
        child = os.fork()
        if child == 0:
            try:
                ok = first_wrong(region.view) is None
                stamp_all(region.view[:MIB], 1)
                os._exit(0 if ok and first_wrong(region.view[:MIB], 1) is None else 1)
            finally:
                os._exit(2)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertIsNone(first_wrong(region.view))

    def test_threads_share_a_region(self):
        region = self.pool.map(2 * BUDGET)
        quarter, wrong = BUDGET // 2, []

        def work(number):
            part = region.view[number * quarter:(number + 1) * quarter]
            for version in range(2):
                stamp_all(part, version + 10 * number)
                wrong.append(first_wrong(part, version + 10 * number))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [None] * 8)


# Each of these is a program of its own: a wrong SIGBUS action ends it.
PROLOGUE = """
import errno, faulthandler, mmap, os, signal, sys
import buoy
from test_buoy import BUDGET, first_wrong, sigbus_handler, stamp_all
pool = None
def start():
    global pool, region
    pool = buoy.Pool(BUDGET, backing_file="auto")
    region = pool.map(2 * BUDGET)
def check(version):
    stamp_all(region.view, version)
    assert first_wrong(region.view, version) is None, version
    print("checked", version, flush=True)
def child_has_its_copy(version):
    child = os.fork()
    if child == 0:
        right = first_wrong(region.view, version) is None
        stamp_all(region.view, version + 1)
        os._exit(0 if right and first_wrong(region.view, version + 1) is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert first_wrong(region.view, version) is None
    print("checked the parent", flush=True)
"""


def run_program(text, *, as_nobody=False, timeout=120):
    words = [sys.executable, "-c", PROLOGUE + textwrap.dedent(text)]
    if as_nobody:
        words = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-all",
                 "--inh-caps=-all", "--no-new-privs", "env", "TMPDIR=/tmp", *words]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, cwd="/")


def rights():
    """The ways to run a program: with the rights of this process, and without any."""
    if os.geteuid() != 0 or not pathlib.Path("/usr/bin/setpriv").exists():
        return [False]
    return [False, True]


class Sigbus(unittest.TestCase):
    def succeeds(self, text, checks):
        for as_nobody in rights():
            with self.subTest(as_nobody=as_nobody):
                run = run_program(text, as_nobody=as_nobody)
                self.assertEqual((run.returncode, run.stderr), (0, ""))
                self.assertEqual(run.stdout.count("checked"), checks)

    def test_faulthandler_enabled_before(self):
        self.succeeds("faulthandler.enable(); start(); check(0); check(1)", 2)

    def test_faulthandler_enabled_afterwards(self):
        self.succeeds("start(); check(0); faulthandler.enable(); check(1)", 2)

    def test_faulthandler_enabled_and_disabled_between_pools(self):
        self.succeeds("""
            start(); check(0); first, first_region = pool, region
            faulthandler.enable(); start(); check(1)
            faulthandler.disable(); check(2)
            assert first_wrong(first_region.view, 0) is None
            """, 3)

    def test_sigbus_set_by_the_program(self):
        self.succeeds("""
            start(); check(0)
            for version, action in enumerate((signal.SIG_DFL, signal.SIG_IGN, lambda *_: None), 1):
                signal.signal(signal.SIGBUS, action)
                check(version)
            """, 4)

    def test_the_last_pool_leaves_the_programs_handler_alone(self):
        self.succeeds("""
            natural = sigbus_handler()
            start(); check(0); del region; region = None; pool.close()
            assert sigbus_handler() == natural
            start(); faulthandler.enable(); enabled = sigbus_handler()
            check(1); region = None; pool.close()
            assert sigbus_handler() == enabled
            """, 2)

    def test_system_calls_are_served_or_refused_and_served_when_pinned(self):
        self.succeeds("""
            start(); stamp_all(region.view, 5)
            descriptor = os.memfd_create("copy")
            try:
                done = 0
                while done < len(region):
                    done += os.write(descriptor, region.view[done:done + (1 << 20)])
            except OSError as error:
                assert error.errno == errno.EFAULT, error  # no rights: said, not made up
                os.ftruncate(descriptor, 0); os.lseek(descriptor, 0, 0)
                for at in range(0, len(region), 1 << 20):
                    with region.pinned(at, 1 << 20) as view:
                        assert os.write(descriptor, view) == 1 << 20
            with mmap.mmap(descriptor, len(region)) as copy, memoryview(copy) as view:
                assert first_wrong(view, 5) is None
            stamp_all(region.view, 6); os.lseek(descriptor, 0, 0)
            with open(descriptor, "rb", buffering=0) as file:
                for at in range(0, len(region), 1 << 20):
                    with region.pinned(at, 1 << 20, write=True) as view:
                        assert file.readinto(view) == 1 << 20
            assert first_wrong(region.view, 5) is None
            print("checked", flush=True)
            """, 1)

    def test_children_have_their_copies(self):
        self.succeeds("start(); check(0); child_has_its_copy(0)", 2)

    @unittest.skipUnless(os.geteuid() == 0, "there are no rights to give up")
    def test_children_of_who_gave_up_its_rights_have_their_copies(self):
        run = run_program("""
            start(); check(0)
            os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
            child_has_its_copy(0)
            """)
        self.assertEqual((run.returncode, run.stderr, run.stdout.count("checked")), (0, "", 2))

    def dies_by_bus_error(self, before, afterwards):
        """A purged page that is touched is the one SIGBUS that is meant: faulthandler tells, and the
        program ends by it, whenever faulthandler came."""
        for as_nobody in rights():
            with self.subTest(as_nobody=as_nobody):
                run = run_program(f"""
                    import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                    {before}
                    start(); volatile = pool.map(1 << 20); stamp_all(volatile.view); volatile.mark_volatile()
                    pool.reclaim(BUDGET)
                    assert volatile.residency()[0] == buoy.Page.PURGED | buoy.Page.VOLATILE, volatile.residency()[0]
                    {afterwards}
                    print("purged", flush=True); print("WRONG:", volatile.view[0], flush=True)
                    """, as_nobody=as_nobody)
                self.assertEqual(run.stdout, "purged\n")
                self.assertEqual(run.returncode, -signal.SIGBUS, run.stderr)
                self.assertEqual(run.stderr.count("Fatal Python error: Bus error"), 1, run.stderr)

    def test_a_purged_page_is_a_bus_error_with_faulthandler_before(self):
        self.dies_by_bus_error("faulthandler.enable()", "")

    def test_a_purged_page_is_a_bus_error_with_faulthandler_afterwards(self):
        self.dies_by_bus_error("", "faulthandler.enable()")

    def test_under_buoy_run_the_module_uses_its_engine(self):
        text = PROLOGUE + "start(); check(0); faulthandler.enable(); check(1)"
        run = subprocess.run([os.environ["BUOY"], "run", "--budget", "256M", "--", sys.executable, "-c", text],
                             capture_output=True, text=True, timeout=120)
        self.assertEqual((run.returncode, run.stderr), (0, ""))


class Module(unittest.TestCase):
    def test_its_version_is_the_commands(self):
        said = subprocess.run([os.environ["BUOY"], "--version"], capture_output=True, text=True, check=True)
        self.assertEqual(said.stdout, f"buoy {buoy.__version__}\n")

    def test_constants_are_those_of_the_header(self):
        header = (pathlib.Path(os.environ["SOURCE_DIR"]) / "include/buoy/buoy.h").read_text()
        for enumeration, prefix in ((buoy.Advice, "BUOY_"), (buoy.Page, "BUOY_PAGE_")):
            for member in enumeration:
                self.assertRegex(header, rf"\b{prefix}{member.name} = (0x)?0*{member.value:x}\b"
                                 if member.value == 0x80 else rf"\b{prefix}{member.name} = {member.value}\b")

    def test_all_that_is_called_is_in_the_header(self):
        header = (pathlib.Path(os.environ["SOURCE_DIR"]) / "include/buoy/buoy.h").read_text()
        for name, (_, arguments) in _library._FUNCTIONS.items():
            found = re.search(rf"BUOY_API [^;]*\b{name}\(([^)]*)\)", header)
            self.assertIsNotNone(found, name)
            self.assertEqual(len(found.group(1).split(",")), len(arguments), name)

    def test_a_missing_library_is_an_import_error_that_names_the_remedy(self):
        run = subprocess.run([sys.executable, "-c", "import buoy"], capture_output=True, text=True,
                             env={**os.environ, "BUOY_LIBRARY": "/no/such/libbuoy.so.0"}, timeout=60)
        self.assertEqual(run.returncode, 1)
        self.assertIn("ImportError: /no/such/libbuoy.so.0", run.stderr)
        self.assertIn("BUOY_LIBRARY=", run.stderr)


if __name__ == "__main__":
    unittest.main()
