#!/usr/bin/env bash
# Budgets that are computed: a share of memory, and what a cgroup leaves, followed as it changes. A tree
# of files stands for the system (BUOY_SYSTEM_ROOT), so that what it says is known; then a real cgroup.
# ctest: timeout=300 serial
source "$(dirname "$0")/run_common.bash"
export XDG_RUNTIME_DIR=$WORK/runtime
mkdir -m 700 "$XDG_RUNTIME_DIR"
GROUP=/sys/fs/cgroup/memory/buoy-test-$$
run=
trap '[[ -z $run ]] || kill -KILL $run 2>/dev/null; rmdir "$GROUP" 2>/dev/null; rm -rf "$WORK"' EXIT
refused() { refused_by "$BUOY" "$@"; }

# The budgets of the run's processes in MiB, in one line, and their number.
budgets() {
  { "$BUOY" stat "$run" --json 2>/dev/null || echo '{"processes":[]}'; } | python3 -c '
import json, sys
print(*[p["stats"]["budget_bytes"] >> 20 for p in json.load(sys.stdin)["processes"] if "stats" in p])'
}
# budget_within LEAST MOST: of one process.
budget_within() {
  local now
  now=$(budgets)
  [[ $now =~ ^[0-9]+$ ]] && ((now >= $1 && now <= $2))
}

# ---- Words ----------------------------------------------------------------------------------------
refused 2 "not a share" run --budget 0% true
refused 2 "not a share" run --budget 101% true
refused 2 "not a share" run --budget half% true
refused 2 "auto:pressure=N" run --budget auto:pressure=0 true
refused 2 "auto:pressure" run --budget automatic true
refused 2 "computed" run --budget 64M --min-budget 32M true
refused 2 "below" run --budget auto --min-budget 1M true
refused 2 "not a size" run --budget auto --min-budget 50% true
"$BUOY" run --help | grep -q -- '--min-budget' || fail "--min-budget is not in the help"

# ---- A system of files ----------------------------------------------------------------------------
root=$WORK/system
cgroup=$root/sys/fs/cgroup/job
mkdir -p "$root/proc/self" "$cgroup"
printf 'MemTotal: 4194304 kB\nMemAvailable: 3145728 kB\n' >"$root/proc/meminfo"
echo '41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw' >"$root/proc/self/mountinfo"
echo '0::/job' >"$root/proc/self/cgroup"
# group LIMIT USED CACHE, in MiB: at once, as a cgroup's files change.
group() {
  printf 'inactive_file %d\nactive_file 0\n' $(($3 << 20)) >"$cgroup/memory.stat"
  echo $(($2 << 20)) >"$cgroup/memory.current"
  echo $(($1 << 20)) >"$cgroup/new" && mv "$cgroup/new" "$cgroup/memory.max"
}
group 512 100 0
export BUOY_SYSTEM_ROOT=$root
budget_of() { # of a program that ends at once, by its statistics, in MiB
  timeout 60 "$BUOY" run "$@" --stats "$WORK/one" -- true 2>"$WORK/one.err" || fail "run $*: $(cat "$WORK/one.err")"
  echo $(($(stat_of "$WORK/one" budget_bytes) >> 20))
}
[[ $(budget_of --budget 75%) == 383 ]] || fail "75% of 512M: $(budget_of --budget 75%)"
[[ $(budget_of --budget auto) == 396 ]] || fail "auto: 512M - 100M - 16M: $(budget_of --budget auto)"
group 512 100 64
[[ $(budget_of --budget auto) == 460 ]] || fail "auto: page cache is free: $(budget_of --budget auto)"
group 64 60 0
[[ $(budget_of --budget auto --min-budget 24M) == 24 ]] || fail "--min-budget"
grep -q "warning: --budget auto: the cgroup's limit is 64M" "$WORK/one.err" || fail "no warning: $(cat "$WORK/one.err")"
refused 2 "3% of the cgroup's limit, 64M, is below the smallest budget, 16M" run --budget 3% true

# It moves: by what the cgroup's limit is, and what is used of it (the process's own, which the files do not
# know of, comes on top).
group 512 100 0
"$BUOY" run --budget auto --stats "$WORK/stats" -- sleep 100 &
run=$!
until_true budget_within 396 404 || fail "auto in 512M: $(budgets)"
group 256 100 0
until_true budget_within 148 156 || fail "auto follows the limit down: $(budgets)"
group 1024 200 0
until_true budget_within 792 800 || fail "auto follows the limit up: $(budgets)"
group 1024 1020 0
until_true budget_within 16 16 || fail "auto goes down to the smallest: $(budgets)"
group 1024 200 0
until_true budget_within 792 800 || fail "auto comes back: $(budgets)"
"$BUOY" set $run --budget 300M >/dev/null || fail "set"
group 512 100 0
sleep 1.5
budget_within 300 300 || fail "what was set by hand stays: $(budgets)"
kill -TERM $run
wait $run 2>/dev/null

# Two processes share what is free.
group 512 100 0
"$BUOY" run --budget auto -- bash -c 'sleep 100 & wait' &
run=$!
two() { read -r a b < <(budgets); [[ -n ${b:-} ]] && ((a >= 195 && a <= 206 && b >= 195 && b <= 206)); }
until_true two || fail "two processes have half each: $(budgets)"
kill -TERM $run
wait $run 2>/dev/null

# ---- What a program needs -------------------------------------------------------------------------
# It holds 160 MiB and touches 40 of them.
cat >"$WORK/needs.py" <<'END'
import time
whole = bytearray(160 << 20)
whole[::4096] = b"x" * (len(whole) // 4096)
end = time.monotonic() + 12
while time.monotonic() < end:
    for i in range(0, 40 << 20, 4096):
        whole[i] = 1
    time.sleep(0.01)
END
group 1024 100 0
timeout 100 "$BUOY" run --budget auto:pressure --stats "$WORK/stats" -- /usr/bin/python3 "$WORK/needs.py" 2>"$WORK/err" ||
  fail "auto:pressure: $(cat "$WORK/err")"
need=$(sed -n 's/^buoy: this program needs \([0-9]*\)M (at most 100 faults a second.*/\1/p' "$WORK/err")
[[ -n $need ]] && ((need >= 30 && need <= 150)) || fail "40M of 160M are needed, and it says: $(cat "$WORK/err")"
echo "a program that touches 40M of 160M is said to need ${need}M"
timeout 60 "$BUOY" run --budget auto:pressure -- true 2>"$WORK/err"
grep -q "^buoy: this program ended before it could be told" "$WORK/err" || fail "too short: $(cat "$WORK/err")"
unset BUOY_SYSTEM_ROOT
run=

# ---- A real cgroup --------------------------------------------------------------------------------
if mkdir "$GROUP" 2>/dev/null && echo 200M >"$GROUP/memory.limit_in_bytes" 2>/dev/null; then
  # 300 MiB in a cgroup of 200: without a budget that fits, the kernel would kill it.
  bash -c 'echo $$ >"'"$GROUP"'/tasks"; exec timeout 120 "$@"' - \
    "$BUOY" run --budget auto --stats "$WORK/stats" -- "$PROGRAMS/stamp_pages" 300 2 40000 2>"$WORK/err" ||
    fail "a real cgroup of 200M: status $?: $(cat "$WORK/err")"
  budget=$(($(stat_of "$WORK/stats" budget_bytes) >> 20))
  ((budget >= 64 && budget < 200)) || fail "a real cgroup of 200M: budget ${budget}M"
  (($(stat_of "$WORK/stats" pswpout) > 1000)) || fail "nothing left the memory of 200M"
  grep -q '^oom_kill 0$' "$GROUP/memory.oom_control" || fail "the kernel killed: $(cat "$GROUP/memory.oom_control")"
  # The limit of one that runs is cut.
  echo 400M >"$GROUP/memory.limit_in_bytes"
  bash -c 'echo $$ >"'"$GROUP"'/tasks"; exec "$@"' - "$BUOY" run --budget auto -- sleep 100 &
  run=$!
  until_true budget_within 340 388 || fail "in a real cgroup of 400M: $(budgets)"
  echo 150M >"$GROUP/memory.limit_in_bytes"
  until_true budget_within 100 146 || fail "a real cgroup cut to 150M: $(budgets)"
  kill -TERM $run
  wait $run 2>/dev/null
  run=
else
  skip "no cgroup of version 1 with a memory limit can be made at $GROUP: root, and such a mount, are wanted"
fi
finish
