#!/usr/bin/env bash
# What programs in a budget are told when they ask how much memory there is: the budget, whichever way
# they ask, or what there really is where that was asked for.
# ctest: timeout=300
source "$(dirname "$0")/run_common.bash"

under() { timeout 100 "$BUOY" run --budget 512M "$@" 2>"$WORK/err" </dev/null; }
total_real=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)
((total_real > 524288)) || { echo "this machine has less memory than the budget of the test: skipped"; exit 77; }
# is WHAT EXPECTED ACTUAL
is() { [[ $3 == "$2" ]] || fail "$1: '$3', not '$2' $(head -n 1 "$WORK/err")"; }
total_of='s/^MemTotal: *\([0-9]*\) kB/\1/p'

# ---- What all programs have ------------------------------------------------------------------------
is "getconf _PHYS_PAGES" 131072 "$(under getconf _PHYS_PAGES)"
available=$(under getconf _AVPHYS_PAGES)
((available > 100000 && available < 131072)) || fail "getconf _AVPHYS_PAGES: $available"
is "/proc/meminfo" 524288 "$(under cat /proc/meminfo | sed -n "$total_of")"
is "a relative path" 524288 "$(under bash -c 'cd /proc && cat meminfo' | sed -n "$total_of")"
ln -s /proc/meminfo "$WORK/link"
is "a link" 524288 "$(under cat "$WORK/link" | sed -n "$total_of")"
is "the shell's redirection" 524288 "$(under bash -c 'read -r _ kb _ </proc/meminfo; echo $kb')"
is "as many lines as ever" "$(wc -l </proc/meminfo)" "$(under wc -l /proc/meminfo | cut -d' ' -f1)"
read -r most < <(under awk '/^(MemFree|MemAvailable|Cached|AnonPages)/ && $2 > m {m = $2} END {print m}' /proc/meminfo)
((most <= 524288)) || fail "/proc/meminfo tells of $most kB in a budget of 524288"
is "a budget that is more than there is" "$total_real" \
  "$(timeout 100 "$BUOY" run --budget $((total_real * 2))K cat /proc/meminfo 2>/dev/null | sed -n "$total_of")"
is "a file that is another's" "$(head -c 64 /proc/version)" "$(under head -c 64 /proc/version)"
is "no such file" "cat: /proc/meminfo2: No such file or directory" "$(LC_ALL=C under bash -c 'cat /proc/meminfo2 2>&1')"

# ---- It can be had otherwise -----------------------------------------------------------------------
is "--show-budget no, /proc/meminfo" "$total_real" "$(under --show-budget no cat /proc/meminfo | sed -n "$total_of")"
is "--show-budget no, sysconf" "$(getconf _PHYS_PAGES)" "$(under --show-budget no getconf _PHYS_PAGES)"
refused_by "$BUOY" 2 "none of yes, no" run --budget 64M --show-budget maybe true

# ---- A budget that changes, descriptors, system calls past libc ------------------------------------
cat >"$WORK/ask.py" <<'END'
import ctypes, fcntl, os
libc = ctypes.CDLL(None, use_errno=True)
def total(fd):
    return int(os.read(fd, 4096).split()[1])
fd = libc.syscall(257, -100, b"/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)  # openat
assert total(fd) == 524288
assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
os.close(fd)
fd = libc.syscall(2, b"/proc/meminfo", os.O_RDONLY)  # open
assert total(fd) == 524288
assert not fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
try:
    os.write(fd, b"x")
    raise SystemExit("what is shown can be written to")
except OSError:
    pass
os.close(fd)
# Nothing of ours stays open.
assert os.open("/dev/null", os.O_RDONLY) == fd
info = ctypes.create_string_buffer(128)
assert libc.syscall(99, info) == 0 and int.from_bytes(info[32:40], "little") == 512 << 20
libc.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p]
assert libc.syscall(99, 8) == -1 and ctypes.get_errno() == 14  # EFAULT
assert os.sysconf("SC_PHYS_PAGES") * 4096 == 512 << 20
END
under /usr/bin/python3 "$WORK/ask.py" || fail "by system calls: $(tail -n 2 "$WORK/err")"

# ---- Cgroups ---------------------------------------------------------------------------------------
group=$(sed -n 's/^[0-9]*:\([a-z,]*,\)\?memory\(,[a-z,]*\)\?:\(.*\)/\3/p' /proc/self/cgroup)
file=/sys/fs/cgroup/memory${group%/}/memory.limit_in_bytes
[[ -e $file ]] || file=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.max
if [[ -e $file ]]; then
  limit=$(cat "$file")
  [[ $limit =~ ^[0-9]+$ ]] && ((limit < 536870912)) || limit=536870912
  is "$file" "$limit" "$(under cat "$file")"
  is "--show-budget no, $file" "$(cat "$file")" "$(under --show-budget no cat "$file")"
  usage=${file/limit_in_bytes/usage_in_bytes}
  usage=$(under cat "${usage/memory.max/memory.current}")
  ((usage <= 536870912)) || fail "the cgroup's usage is $usage in a budget of 512M"
else
  skip "there is no memory cgroup whose files could be read"
fi

# ---- Those that size themselves --------------------------------------------------------------------
if type free >/dev/null 2>&1; then
  is free 512 "$(under free -m | awk '/^Mem:/ {print $2}')"
else
  skip "free is not here"
fi
if type node >/dev/null 2>&1; then
  is node "$((512 << 20))" "$(under node -e 'console.log(os.totalmem())')"
else
  skip "node is not here"
fi
if type java >/dev/null 2>&1; then
  # A quarter is the default of the JVM; its own container support, and without it.
  heap() { under java "$@" -XX:+PrintFlagsFinal -version | awk '/ MaxHeapSize / {print $4}'; }
  is "java's heap" $((128 << 20)) "$(heap)"
  is "java's heap without cgroups" $((128 << 20)) "$(heap -XX:-UseContainerSupport)"
else
  skip "java is not here"
fi
finish
