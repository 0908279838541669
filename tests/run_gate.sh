#!/usr/bin/env bash
# The system call gate: programs that are at odds with it, natively and in both deliveries. What a
# handler thread cannot serve (futex operations that store in the kernel, and what the kernel does when
# a thread ends) is tried in signal delivery only.
# ctest: timeout=1800
source "$(dirname "$0")/run_common.bash"

signal="--faults signal --backing-file auto"
thread="--faults thread --backing-file auto"

# by_gate: the calls of the last program went through the gate, and all of libc's do.
by_gate() {
  local sites entered left
  sites=$(stat_of "$WORK/stats" gate_sites_patched)
  entered=$(stat_of "$WORK/stats" gate_enter)
  left=$(stat_of "$WORK/stats" gate_sites_left)
  [[ ${sites:-0} -gt 500 ]] || fail "$1: $sites system calls patched"
  [[ ${entered:-0} -gt 0 ]] || fail "$1: the gate was never entered"
  [[ ${left:-1} == 0 ]] || fail "$1: $left system calls left as they are"
}
both() {
  local budget=$1
  shift
  same_as_native "$budget" "$signal" "$@"
  by_gate "$(basename "$1")"
  same_as_native "$budget" "$thread" "$@"
}

same_as_native 64M "$signal" "$PROGRAMS/gate_adversary" 100000 1
by_gate gate_adversary
same_as_native 16M "$signal --compressor zstd" "$PROGRAMS/gate_adversary" 20000 2
same_as_native 64M "$thread" "$PROGRAMS/gate_adversary" 20000 3 plain

for part in masks spawn waits nested restart faults stacks contexts alternate none bursts told unwound switch \
  switch-onstack; do
  both 32M "$PROGRAMS/gate_signals" 500 "$part"
done
both 32M "$PROGRAMS/gate_signals" 10000 jumps
# One after the other in one process: what one part leaves behind, the next finds.
both 64M "$PROGRAMS/gate_signals" 200

for part in cancel processes wait append openmp filter large streams interrupted static; do
  both 48M "$PROGRAMS/gate_threads" "$part" 160
done
for part in robust inherit bare buffers; do
  same_as_native 48M "$signal" "$PROGRAMS/gate_threads" "$part"
  by_gate "gate_threads $part"
done

both 16M "$PROGRAMS/gate_mutexes"

# A debugger that passes our signal on stops, steps and finds its way as without us.
if ! command -v gdb >/dev/null; then
  skip "no gdb"
else
  cat >"$WORK/steps" <<'X'
handle SIGBUS nostop noprint pass
break sum
run
backtrace 2
next
next
next
next
print total
print i
finish
print pages[(long)4096 * 11999]
clear sum
continue
X
  debugged() { timeout -k 5 100 "$@" gdb -nx -q -batch -x "$WORK/steps" "$PROGRAMS/debugged" 2>&1 </dev/null | grep -E '^(\$|sum|Value|#1|[0-9]|.*Inferior 1)' | sed 's/(process.*) //; s/ (.*) / /; s/0x[0-9a-f]* in //'; }
  debugged >"$WORK/native.out"
  debugged "$BUOY" run --budget 16M --faults signal >"$WORK/buoy.out"
  [[ $(grep -c '^sum' "$WORK/native.out") == 2 ]] || fail "gdb natively: $(tail -n 3 "$WORK/native.out")"
  cmp "$WORK/native.out" "$WORK/buoy.out" && echo "ok: gdb" || fail "gdb: $(diff "$WORK/native.out" "$WORK/buoy.out")"
fi
if ! command -v valgrind >/dev/null; then
  skip "no valgrind"
else
  timeout 100 "$BUOY" run --budget 64M --unmanaged-exec allow -- valgrind -q "$PROGRAMS/debugged" >"$WORK/out" 2>"$WORK/err"
  [[ $? == 2 && $(tail -n 1 "$WORK/err") == "buoy: valgrind cannot run a program in a budget; "* ]] ||
    fail "valgrind: $(tail -n 2 "$WORK/err")"
fi

# Code that is made at run time, and a fork of its own, which only the gate sees.
same_as_native 32M "$signal" "$PROGRAMS/gate_code"
dispatched=$(stat_of "$WORK/stats" gate_dispatched)
[[ ${dispatched:-0} -gt 1000 ]] || fail "gate_code: $dispatched system calls dispatched"

# Somebody with no rights, where the system gives none away: by signal, without being asked.
if [[ $(id -u) != 0 ]]; then
  skip "not root, so nobody else can be tried"
elif [[ $(cat /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null) != 0 ]]; then
  skip "vm.unprivileged_userfaultfd is not 0"
else
  chmod 711 "$WORK"
  mkdir -m 777 "$WORK/nobody"
  cp "$BUOY" "$BUILD_DIR/libbuoy_preload.so" "$PROGRAMS/gate_adversary" "$PROGRAMS/gate_threads" \
    "$WORK/nobody/"
  for program in "gate_adversary 5000 4" "gate_threads cancel" "gate_threads processes"; do
    got=$(cd "$WORK/nobody" && timeout -k 5 100 setpriv --reuid=65534 --regid=65534 --clear-groups \
      --bounding-set=-all --inh-caps=-all ./buoy run --budget 32M --stats "$WORK/nobody/stats" -- \
      ./$program 2>"$WORK/err" </dev/null)
    [[ $? == 0 && $got == *": done" && ! -s $WORK/err ]] ||
      fail "nobody's $program: '$got' $(head -n 2 "$WORK/err")"
    [[ $(stat_of "$WORK/nobody/stats" gate_sites_patched) -gt 500 ]] || fail "nobody's $program: no gate"
    echo "ok: $program, as nobody"
  done
fi
finish
