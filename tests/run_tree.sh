#!/usr/bin/env bash
# One budget for a tree of processes: what all of them have resident, as the kernel counts it, stays within
# it, while processes come, fork, exec and are killed; and what nobody has any more comes back.
# ctest: timeout=300 serial
source "$(dirname "$0")/run_common.bash"
export XDG_RUNTIME_DIR=$WORK/runtime
mkdir -m 700 "$XDG_RUNTIME_DIR"
run=
trap '[[ -z $run ]] || kill -KILL $run 2>/dev/null; rm -rf "$WORK"' EXIT

# watch RUN FILE: until the run has ended, the most that its processes had resident above 32 MiB each, in
# KiB, the most processes at a time, and how often it was looked.
cat >"$WORK/watch.py" <<'END'
import os, sys, time
run = int(sys.argv[1])
def tree():
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as f:
                    parents[int(name)] = int(f.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass
    found, todo = [], [run]
    while todo:
        one = todo.pop()
        for pid, parent in parents.items():
            if parent == one:
                found.append(pid)
                todo.append(pid)
    return found
most = processes = looks = 0
while os.path.exists(f"/proc/{run}/status") and "State:\tZ" not in open(f"/proc/{run}/status").read():
    total = n = 0
    for pid in tree():
        try:
            for line in open(f"/proc/{pid}/status"):
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1])
                    n += 1
        except OSError:
            pass
    most = max(most, total - n * (32 << 10))
    processes = max(processes, n)
    looks += 1
    time.sleep(0.02)
print(most, processes, looks)
END
facts() { { "$BUOY" stat "$run" --json 2>/dev/null || true; } | python3 -c "import json, sys; t = sys.stdin.read(); d = json.loads(t) if t else {\"run\": {}, \"processes\": []}; print($1)" 2>/dev/null; }
# family BUDGET ARG...: of tree_family, watched from outside.
family() {
  local budget=$1 status most processes looks
  shift
  timeout 150 "$BUOY" run --budget "$budget"M --budget-scope tree -- "$PROGRAMS/tree_family" "$@" \
    >"$WORK/out" 2>"$WORK/err" &
  run=$!
  timeout 150 python3 "$WORK/watch.py" $run >"$WORK/watched"
  wait $run
  status=$?
  run=
  read -r most processes looks <"$WORK/watched"
  [[ $status == 0 ]] || fail "tree_family $* in ${budget}M: status $status: $(head -n 3 "$WORK/err")"
  ((most <= budget << 10)) || fail "tree_family $* in ${budget}M: $((most >> 10)) MiB resident besides 32 MiB each"
  ((looks > 20 && processes > $1)) || fail "tree_family $*: watched $looks times, $processes processes"
  echo "ok: tree_family $* in ${budget}M: at most $((most >> 10)) MiB and 32 MiB each of $processes processes; $(cat "$WORK/out")"
}

refused_by "$BUOY" 2 "none of process, tree" run --budget 64M --budget-scope all true
refused_by "$BUOY" 2 "enomem" run --budget 64M --budget-scope tree --on-exhausted enomem true
refused_by "$BUOY" 2 "auto:pressure" run --budget auto:pressure --budget-scope tree true

# ---- Many that want more than there is ------------------------------------------------------------
family 256 4 200 12
family 128 3 60 40

# ---- What one does not use any more, another has --------------------------------------------------
cat >"$WORK/turns.py" <<'END'
import os, signal, sys, time
def hold(mib):
    data = bytearray(mib << 20)
    data[::4096] = bytes([1]) * (len(data) // 4096)
    return data
r, w = os.pipe()
child = os.fork()
if child == 0:
    data = hold(100)
    os.write(w, b"x")
    time.sleep(100)
os.read(r, 1)
time.sleep(0.5)
mine = hold(100)     # the child sleeps: its pages are the older ones
print("both", flush=True)
sys.stdin.readline()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print("killed", flush=True)
sys.stdin.readline()
END
mkfifo "$WORK/in"
"$BUOY" run --budget 128M --budget-scope tree -- /usr/bin/python3 "$WORK/turns.py" <"$WORK/in" >"$WORK/out" 2>"$WORK/err" &
run=$!
exec 7>"$WORK/in"
until_true grep -q both "$WORK/out" || fail "two of 100M in 128M: $(cat "$WORK/err")"
[[ $(facts 'd["run"]["budget_scope"], d["run"]["budget_bytes"] >> 20, len(d["processes"])') == "tree 128 2" ]] ||
  fail "the tree is not told of: $(facts 'd["run"]')"
(($(facts 'sum(p["stats"]["budget_bytes"] for p in d["processes"]) >> 20') <= 128)) || fail "budgets of more than there is"
# The one that works has more than the one that sleeps.
[[ $(facts 'max(d["processes"], key=lambda p: p["stats"]["budget_bytes"])["pid"] == min(p["pid"] for p in d["processes"])') == True ]] ||
  fail "who sleeps keeps its memory: $("$BUOY" ps)"
echo >&7
until_true grep -q killed "$WORK/out" || fail "kill"
leased_by_one() { [[ $(facts 'len(d["processes"]) == 1 and d["run"]["leased_bytes"] == d["processes"][0]["stats"]["budget_bytes"]') == True ]]; }
until_true leased_by_one || fail "what was leased to a killed process does not come back: $(facts 'd["run"]') $("$BUOY" ps)"

# The whole can be changed.
"$BUOY" set $run --budget 64M >/dev/null || fail "set 64M"
[[ $(facts 'd["run"]["budget_bytes"] >> 20, d["run"]["leased_bytes"] <= 64 << 20') == "64 True" ]] || fail "set: $(facts 'd["run"]')"
"$BUOY" set $run --budget 256M >/dev/null || fail "set 256M"
echo >&7
exec 7>&-
wait $run || fail "turns.py: status $?: $(cat "$WORK/err")"
run=

# ---- No room for one more -------------------------------------------------------------------------
# Each has 16M at least: of three in 32M one waits, until one of the others has ended.
timeout 100 "$BUOY" run --budget 32M --budget-scope tree -- bash -c 'sleep 1 | sleep 1 | sleep 1; echo done' >"$WORK/out" 2>"$WORK/err"
grep -q done "$WORK/out" || fail "three in turn in 32M: $(cat "$WORK/err")"
# What the program asks for is told of the whole.
[[ $(timeout 60 "$BUOY" run --budget 512M --budget-scope tree getconf _PHYS_PAGES) == 131072 ]] || fail "the whole budget is not shown"
finish
