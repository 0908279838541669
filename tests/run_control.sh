#!/usr/bin/env bash
# Looking at what runs within a budget, and steering it, from outside: `buoy ps`, `stat`, `set`,
# `reclaim` and the control socket below them. Nothing of it may harm the program.
# ctest: timeout=600 serial
source "$(dirname "$0")/run_common.bash"
HERE=$(cd "$(dirname "$0")" && pwd)
export XDG_RUNTIME_DIR=$WORK/runtime
mkdir -m 700 "$XDG_RUNTIME_DIR"
SOCKETS=$XDG_RUNTIME_DIR/buoy
runs=()
trap '((${#runs[@]} == 0)) || kill -KILL "${runs[@]}" 2>/dev/null; rm -rf "$WORK"' EXIT

# start BUDGET PROGRAM [ARG...]: a run in the background; $run is its process, once it can be seen.
start() {
  "$BUOY" run --budget "$1" -- "${@:2}" >"$WORK/out" 2>"$WORK/err" &
  run=$!
  runs+=("$run")
  for _ in {1..200}; do
    [[ -S $SOCKETS/$run.sock && $("$BUOY" stat "$run" --json 2>/dev/null) == *'"stats"'* ]] && return
    sleep 0.05
  done
  fail "the run of $2 cannot be seen: $("$BUOY" ps 2>&1)"
}
stop() {
  kill -TERM "$run" 2>/dev/null
  wait "$run" 2>/dev/null
}
REFUSAL_SECONDS=30  # a run may have to be asked
refused() { refused_by "$BUOY" "$@"; }

# ---- Words ----------------------------------------------------------------------------------------
refused 2 "PID" stat
refused 2 "stat" stat nobody
refused 2 "excludes" stat 1 --json --prometheus
refused 2 "budget" set 1
refused 2 "not a size" set 1 --budget much
refused 2 "16M" set 1 --budget 1M
refused 2 "SIZE" reclaim 1
refused 1 "no process 4194304" stat 4194304
refused 1 "in no run" stat $$
refused 1 "in no run" set $$ --budget 64M
for command in ps stat set reclaim; do
  "$BUOY" $command --help | grep -q "^Example: buoy $command" || fail "$command --help has no example"
done
[[ $("$BUOY" ps 2>&1) == *"nothing runs"* ]] || fail "ps of nothing: $("$BUOY" ps 2>&1)"

# ---- Statistics -----------------------------------------------------------------------------------
start 64M bash -c 'sleep 2 & wait; exec sleep 100'
[[ $(stat -c %a "$SOCKETS") == 700 && $(stat -c %a "$SOCKETS/$run.sock") == 600 ]] ||
  fail "rights: $(stat -c '%a %n' "$SOCKETS" "$SOCKETS/$run.sock")"
until_true eval '"$BUOY" stat $run --json | check "len(d[\"processes\"]) == 2"' ||
  fail "the forked child does not show: $("$BUOY" ps)"
"$BUOY" stat $run --json | check 'd["ok"] and d["run"]["pid"] == '$run' and all(
  p["stats"]["budget_bytes"] == 64 << 20 and 0 < p["stats"]["resident_bytes"] <= 64 << 20
  and p["stats"]["pgfault"] > 0 for p in d["processes"])' || fail "stat --json: $("$BUOY" stat $run --json)"
until_true eval '"$BUOY" stat $run --json | check "len(d[\"processes\"]) == 1"' ||
  fail "the child has ended, and still shows: $("$BUOY" ps)"
until_true eval '"$BUOY" ps | grep -q "sleep 100$"' || fail "after exec: $("$BUOY" ps)"
"$BUOY" ps --json | check 'len(d["processes"]) == 1 and d["processes"][0]["command"] == "sleep 100"' ||
  fail "ps --json: $("$BUOY" ps --json)"
process=$("$BUOY" ps | awk '/sleep 100/ {print $1}')
"$BUOY" stat "$process" | grep -q '^resident_bytes *[1-9]' || fail "stat of a process: $("$BUOY" stat "$process")"
"$BUOY" stat $run --prometheus >"$WORK/prometheus"
python3 - "$WORK/prometheus" "$process" <<'EOF' || fail "the Prometheus form: $(head -n 5 "$WORK/prometheus")"
import re, sys
kind, samples = {}, {}
for line in open(sys.argv[1]):
    if line.startswith("# TYPE "):
        _, _, name, what = line.split()
        assert name not in kind and what in ("gauge", "counter", "histogram"), line
        kind[name] = what
        continue
    if kind.get("buoy_fault_seconds"):  # the last family: tests/run_serve.sh looks at its numbers
        assert re.match(r'buoy_fault_seconds_(bucket|sum|count)\{run="\d+",pid="%s",' % sys.argv[2], line), line
        continue
    m = re.fullmatch(r'([a-z0-9_]+)\{run="\d+",pid="(\d+)",command="sleep 100"\} (\d+)\n', line)
    assert m and m[1] in kind and m[2] == sys.argv[2], line
    samples[m[1]] = int(m[3])
assert samples["buoy_budget_bytes"] == 64 << 20 and kind["buoy_budget_bytes"] == "gauge"
assert samples["buoy_pgfault_total"] > 0 and kind["buoy_pgfault_total"] == "counter"
assert kind.pop("buoy_fault_seconds") == "histogram" and len(samples) == len(kind) > 60
EOF
[[ $(timeout 1.5 "$BUOY" stat $run --json --watch 0.2 | wc -l) -ge 4 ]] || fail "stat --watch"

# A run that is stopped, with its program as a shell does it, does not answer, and that is told.
kill -STOP "$process"
until_true eval '"$BUOY" stat $run >"$WORK/refused.out" 2>"$WORK/refused.err"; grep -q "does not answer" "$WORK/refused.err"' ||
  fail "a stopped process: $(cat "$WORK/refused.err")"
kill -CONT $run
until_true eval '"$BUOY" stat $run >/dev/null 2>&1' || fail "continued, and does not answer"

# ---- The fuzzer, and clients that behave badly -----------------------------------------------------
timeout 120 python3 "$HERE/control_fuzz.py" "$SOCKETS/$run.sock" 4000 || fail "the fuzzer"
python3 - "$SOCKETS/$run.sock" <<'EOF' || fail "many clients, and one that does not read"
import json, socket, sys, time
def connect():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(10)
    s.connect(sys.argv[1])
    return s
def line(s):
    text = b""
    while not text.endswith(b"\n"):
        more = s.recv(65536)
        assert more, text
        text += more
    return json.loads(text)
many = [connect() for _ in range(16)]
for s in many:
    s.sendall(b'{"op":"stats"}\n')
    assert line(s)["ok"]
late = connect()
assert "too many" in line(late)["error"]
for s in many:
    s.close()
time.sleep(0.3)
deaf = connect()
deaf.setblocking(False)
began = time.time()
try:
    while time.time() - began < 20:
        try:
            deaf.send(b'{"op":"stats"}\n' * 100)
        except BlockingIOError:
            time.sleep(0.05)
    sys.exit("never hung up on")
except (BrokenPipeError, ConnectionResetError):
    pass
good = connect()
good.sendall(b'{"op":"stats"}\n')
assert line(good)["ok"]
EOF
[[ -d /proc/$process ]] || fail "the program is gone"

# ---- Another user ---------------------------------------------------------------------------------
if [[ $(id -u) == 0 && -x /usr/bin/python3 ]] && command -v setpriv >/dev/null; then
  chmod 755 "$WORK" "$XDG_RUNTIME_DIR" "$SOCKETS" && chmod 666 "$SOCKETS/$run.sock"
  setpriv --reuid 65534 --regid 65534 --clear-groups /usr/bin/python3 - "$SOCKETS/$run.sock" <<'EOF' || fail "another user is not refused"
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.settimeout(10)
s.connect(sys.argv[1])
try:
    s.sendall(b'{"op":"set-budget","bytes":16777216}\n')
except BrokenPipeError:
    pass
text = b""
try:
    while True:
        more = s.recv(65536)
        if not more:
            break
        text += more
except ConnectionResetError:
    pass
lines = text.splitlines()
assert len(lines) == 1, text
answer = json.loads(lines[0])
assert not answer["ok"] and "another user" in answer["error"], answer
EOF
  "$BUOY" stat $run --json | check 'd["run"]["budget_bytes"] == 64 << 20' || fail "another user's budget"
  chmod 700 "$SOCKETS" && chmod 600 "$SOCKETS/$run.sock"

  # Nowhere to have a socket: the run works, and ps says why it shows nothing.
  if [[ ! -e /tmp/buoy-65533 ]]; then
    mkdir -m 755 "$WORK/bin" && cp "$BUOY" "$BUILD_DIR/libbuoy_preload.so" "$WORK/bin/"
    touch /tmp/buoy-65533
    nobody() {
      XDG_RUNTIME_DIR=/nowhere setpriv --reuid 65533 --regid 65533 --clear-groups \
        "$WORK/bin/buoy" "$@"
    }
    [[ $(nobody run --budget 32M --backing-file none echo runs 2>&1) == runs ]] || fail "a run without a folder"
    nobody ps 2>&1 | grep -q "no folder for control sockets.*XDG_RUNTIME_DIR" || fail "ps without a folder"
    rm -f /tmp/buoy-65533
  fi
else
  skip "no other user to be: not root, no setpriv, or no /usr/bin/python3"
fi

# ---- Ends -----------------------------------------------------------------------------------------
# The program killed: the socket goes with the run.
kill -KILL "$process"
wait $run
[[ $? == 137 && ! -e $SOCKETS/$run.sock ]] || fail "the program was killed: $(ls "$SOCKETS")"
# The supervisor killed: what it leaves goes by the next ps, and by the next run.
for next in ps run; do
  start 32M sleep 100
  kill -KILL $run
  wait $run 2>/dev/null
  [[ -S $SOCKETS/$run.sock ]] || fail "a killed supervisor cannot remove its socket, or can it?"
  dead=$run
  refused 1 "no process\|has ended" stat $dead
  [[ ! -e $SOCKETS/$dead.sock ]] || fail "stat left the socket of a dead run"
  start 32M sleep 100
  kill -KILL $run
  wait $run 2>/dev/null
  dead=$run
  if [[ $next == ps ]]; then
    "$BUOY" ps >/dev/null 2>&1 || fail "ps after a killed supervisor"
  else
    start 32M sleep 100
    "$BUOY" ps | grep -q "sleep 100" || fail "the run after a killed supervisor does not show"
    stop
  fi
  [[ ! -e $SOCKETS/$dead.sock ]] || fail "$next left the socket of a dead run"
done

# What a killed program leaves in the file of its statistics is of this run, and fresh.
echo '{"pgfault":1}' >"$WORK/stats"
"$BUOY" run --budget 64M --stats "$WORK/stats" python3 -c '
import os, signal, time
data = bytearray(os.urandom(1 << 20) * 40)
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)' 2>"$WORK/err"
[[ $? == 137 && $(wc -l <"$WORK/stats") == 1 ]] && check 'd["ended_by_signal"] == 9 and d["budget_bytes"] == 64 << 20
  and 24 << 20 <= d["resident_bytes"] <= 64 << 20 and d["pgfault_zero"] > 1000' <"$WORK/stats" ||
  fail "statistics of a killed program: $(cat "$WORK/stats" "$WORK/err")"
"$BUOY" run --budget 64M --stats - sh -c 'kill -KILL $$' 2>&1 | check 'd["ended_by_signal"] == 9' ||
  fail "statistics of a killed program, to stderr"

# ---- Budgets --------------------------------------------------------------------------------------
# Halved and doubled under way: nothing is lost, and what set says is so. A process that ends or starts
# meanwhile is not asked, or asks itself: it has one budget or the other.
# change_budgets TIMES PROGRAM [ARG...]: until the program ends, so often at least.
change_budgets() {
  local changes=0 budget least=$1
  shift
  start 96M "$@"
  while kill -0 $run 2>/dev/null; do
    for budget in 48 96; do
      if ! "$BUOY" set $run --budget ${budget}M >"$WORK/set" 2>&1 ||
        ! "$BUOY" stat $run --json >"$WORK/stat" 2>>"$WORK/set"; then
        sleep 1 # it may be about to end
        kill -0 $run 2>/dev/null || break 2
        fail "$1: set to ${budget}M: $(cat "$WORK/set")"
        continue
      fi
      check "all(p['stats']['resident_bytes'] <= p['stats']['budget_bytes'] in (48 << 20, 96 << 20)
                 for p in d['processes'])" <"$WORK/stat" || fail "$1 in ${budget}M: $(cat "$WORK/stat")"
      # Of processes that were there before and after, the budget is what was set.
      python3 - "$WORK/set" "$WORK/stat" $budget <<'EOF' || fail "$1: not set to ${budget}M: $(cat "$WORK/set" "$WORK/stat")"
import json, re, sys
told = {int(pid): size for pid, size in re.findall(r"process (\d+): budget (\w+),", open(sys.argv[1]).read())}
now = {p["pid"]: p["stats"]["budget_bytes"] >> 20 for p in json.load(open(sys.argv[2]))["processes"]}
for pid in told.keys() & now.keys():
    assert told[pid] == sys.argv[3] + "M" and now[pid] == int(sys.argv[3]), (pid, told, now)
EOF
      changes=$((changes + 1))
    done
  done
  wait $run
  [[ $? == 0 && $(cat "$WORK/out") == "$(timeout 100 "$@")" ]] ||
    fail "$1 in changing budgets: $(cat "$WORK/out" "$WORK/err")"
  ((changes >= least)) || fail "$1: only $changes changes of the budget: $(cat "$WORK/set")"
  echo "ok: $1: $changes changes of the budget"
}
change_budgets 4 "$PROGRAMS/stamp_pages" 80 2 400000
change_budgets 2 "$PROGRAMS/fork_zoo" 64 60

# Of a run: also of processes that start later. Of one process: of no other.
start 64M bash -c 'sleep 100 & while [[ ! -e '"$WORK"'/go ]]; do sleep 0.05; done; sleep 101'
until_true eval '"$BUOY" ps | grep -q "sleep 100$"' || fail "ps: $("$BUOY" ps)"
"$BUOY" set $run --budget 32M >"$WORK/set" || fail "set: $(cat "$WORK/set")"
first=$("$BUOY" ps | awk '/sleep 100$/ {print $1}')
"$BUOY" set "$first" --budget 48M | grep -q "process $first: budget 48M" || fail "set of one process"
touch "$WORK/go"
until_true eval '"$BUOY" ps | grep -q "sleep 101$"' || fail "ps: $("$BUOY" ps)"
"$BUOY" ps --json | check 'sorted((p["command"], p["stats"]["budget_bytes"] >> 20) for p in d["processes"]
  if "sleep 10" in p["command"] and "bash" not in p["command"]) == [("sleep 100", 48), ("sleep 101", 32)]' ||
  fail "budgets: $("$BUOY" ps)"
stop
kill -KILL "$first" 2>/dev/null

# Memory back, without another budget.
cat >"$WORK/hold.py" <<'EOF'
import sys, time
data = b"some text that compresses " * (40 << 20 // 26)
data = bytearray(40 << 20)
for i in range(0, len(data), 64):
    data[i] = i & 255
print("ready", flush=True)
time.sleep(100)
EOF
start 96M python3 "$WORK/hold.py"
until_true grep -q ready "$WORK/out" || fail "hold.py"
"$BUOY" reclaim $run 16M >"$WORK/reclaimed" || fail "reclaim: $(cat "$WORK/reclaimed")"
"$BUOY" stat $run --json | check 'd["processes"][0]["stats"]["pgsteal_proactive"] >= 2048 and
  d["processes"][0]["stats"]["budget_bytes"] == 96 << 20' || fail "reclaimed: $(cat "$WORK/reclaimed")"
grep -q "reclaimed 1[6-9]" "$WORK/reclaimed" || fail "reclaimed: $(cat "$WORK/reclaimed")"
stop
runs=()
[[ $("$BUOY" ps 2>&1) == *"nothing runs"* ]] || fail "at the end: $("$BUOY" ps 2>&1)"

# As somebody has it whose session sets no folder: each process once, wherever its socket is.
env -u XDG_RUNTIME_DIR "$BUOY" run --budget 32M -- sleep 30 >/dev/null 2>&1 &
run=$!
for _ in {1..100}; do
  lines=$(env -u XDG_RUNTIME_DIR "$BUOY" ps 2>/dev/null | grep -c " $run .*sleep 30")
  [[ $lines == 0 ]] || break
  sleep 0.05
done
[[ $lines == 1 ]] || fail "without XDG_RUNTIME_DIR a process is listed $lines times"
stop
finish
