"""The demo's table: real programs, natively and in half their memory.

Four ways of running each program: natively; in a memory cgroup of half its peak, without swap; the
same with swap on zram; and under `buoy run` with half its peak as the budget. The cgroup and zram are
yardsticks and need root: where they cannot be had, the column says so. Outputs are compared.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
PYTHON = """
n = 600000
table = {i: 'value %d' % (i * 7919) for i in range(n)}
rows = [[i, table[i]] for i in range(0, n, 2)]
total = sum(len(v) for v in table.values()) + sum(r[0] for r in rows)
print(total, hash(tuple(r[0] for r in rows)))
"""
SQL = """
.mode list
create table t(a integer, b text);
with recursive c(i) as (select 1 union all select i + 1 from c where i < 900000)
  insert into t select (i * 7919) % 1000003, 'row number ' || i || ' of the table' from c;
create index by_a on t(a);
select count(*), sum(a), min(b), max(b) from t where a > 500000;
select a, b from t order by b desc limit 3;
"""


class Missing(Exception):
    """A yardstick that cannot be had here; its text says why."""


def run(command, stdin=None, before=None):
    """(seconds, peak RSS in bytes, exit status, hash of the output)"""
    with tempfile.TemporaryFile() as out:
        start = time.monotonic()
        child = subprocess.Popen(command, stdin=stdin or subprocess.DEVNULL, stdout=out,
                                 stderr=subprocess.PIPE, preexec_fn=before)
        child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        return seconds, usage.ru_maxrss * 1024, child.returncode, hashlib.sha256(
            out.read()).hexdigest()


class Cgroup:
    """A memory cgroup of version 1 or 2 with a limit, removed afterwards."""

    def __init__(self, limit, swap):
        v1 = "/sys/fs/cgroup/memory"
        self.v1 = os.path.isdir(v1)
        root = v1 if self.v1 else "/sys/fs/cgroup"
        self.path = os.path.join(root, "buoy-demo-%d" % os.getpid())
        try:
            os.mkdir(self.path)
            if self.v1:
                self.write("memory.limit_in_bytes", limit)
                if not swap:
                    self.write("memory.swappiness", 0)
            else:
                self.write("memory.max", limit)
                if not swap:
                    self.write("memory.swap.max", 0)
        except OSError as e:
            self.close()
            raise Missing("no memory cgroup: " + e.strerror) from e

    def write(self, name, value):
        with open(os.path.join(self.path, name), "w", encoding="ascii") as f:
            f.write(str(value))

    def join(self):
        self.write("cgroup.procs", 0)

    def close(self):
        for _ in range(50):
            try:
                os.rmdir(self.path)
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.1)


class Zram:
    """Swap on /dev/zram0, if nobody uses it; given back afterwards."""

    SYS = "/sys/block/zram0/"

    def __init__(self, size):
        try:
            with open("/proc/swaps", encoding="ascii") as f:
                if len(f.readlines()) > 1:
                    raise Missing("swap is in use here")
            with open(self.SYS + "disksize", encoding="ascii") as f:
                if f.read().strip() != "0":
                    raise Missing("zram0 is in use")
            self.write("comp_algorithm", "lz4")
            self.write("disksize", size)
            for command in (["mkswap", "/dev/zram0"], ["swapon", "/dev/zram0"]):
                subprocess.run(command, check=True, capture_output=True)
        except Missing:
            raise
        except (OSError, subprocess.CalledProcessError) as e:
            self.close()
            raise Missing("no swap on zram") from e

    def write(self, name, value):
        with open(self.SYS + name, "w", encoding="ascii") as f:
            f.write(str(value))

    def close(self):
        subprocess.run(["swapoff", "/dev/zram0"], check=False, capture_output=True)
        try:
            self.write("reset", 1)
        except OSError:
            pass


def in_cgroup(program, limit, swap):
    zram = Zram(2 << 30) if swap else None
    try:
        group = Cgroup(limit, swap)
        try:
            return program(before=group.join)
        finally:
            group.close()
    finally:
        if zram:
            zram.close()


def cell(result, expected):
    seconds, _, status, output = result
    if status < 0 or status > 128:
        return "killed"
    if status != 0:
        return "failed (%d)" % status
    return "%.1f s" % seconds if output == expected else "WRONG OUTPUT"


def yardstick(program, limit, swap, expected, remarks):
    try:
        return cell(in_cgroup(program, limit, swap), expected)
    except Missing as why:
        remarks.add(str(why))
        return "n/a"


def programs(folder):
    lines = os.path.join(folder, "lines")
    state = 88172645463325252
    with open(lines, "w", encoding="ascii") as f:
        for i in range(1200000):
            state = (state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
            f.write("%016d line %d\n" % (state >> 16, i))
    sql = os.path.join(folder, "sql")
    with open(sql, "w", encoding="ascii") as f:
        f.write(SQL)
    found = [("python3", ["/usr/bin/python3", "-c", PYTHON], None),
             ("sqlite3", ["sqlite3", ":memory:"], sql),
             ("sort", ["sort", "--parallel=2", "-S", "400M", lines], None)]
    return [p for p in found if shutil.which(p[1][0])]


def main():
    buoy = os.path.abspath(sys.argv[1])
    os.environ["PYTHONHASHSEED"] = "0"
    remarks = set()
    wrong = False
    form = "%-9s %9s %9s %9s %15s %13s %9s"
    print("== Real programs in half the memory they want")
    print(form % ("program", "peak", "budget", "native", "cgroup, no swap", "cgroup + zram",
                  "buoy run"))
    with tempfile.TemporaryDirectory() as folder:
        for name, words, stdin in programs(folder):
            def program(prefix=(), before=None, words=words, stdin=stdin):
                with open(stdin or os.devnull, "rb") as f:
                    return run(list(prefix) + words, f, before)

            native = program()
            peak = native[1]
            budget = max(peak // 2, 16 * MIB)
            expected = native[3]
            killed = yardstick(program, budget, False, expected, remarks)
            zram = yardstick(program, budget, True, expected, remarks)
            inside = cell(program(prefix=[buoy, "run", "--budget", str(budget), "--"]), expected)
            wrong |= not inside.endswith(" s")
            print(form % (name, "%d MiB" % (peak // MIB), "%d MiB" % (budget // MIB),
                          "%.1f s" % native[0], killed, zram, inside), flush=True)
    print("One run each, outputs compared. zram's own memory comes on top of its cgroup's limit; "
          "Buoy's\ncompressed pages are inside its budget. `./dev bench` measures it fairly.")
    for remark in sorted(remarks):
        print("n/a: " + remark)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
