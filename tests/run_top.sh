#!/usr/bin/env bash
# `buoy top`: its picture in terminals of several sizes, its keys, and what it says where there is no
# terminal. tmux is the terminal.
# ctest: timeout=600 serial labels=no_sanitizer
# Other runs of root's would be in the picture: this one sees none but its own.
if [[ -z ${BUOY_TEST_ALONE:-} && $(id -u) == 0 ]] && unshare -m true 2>/dev/null; then
  export BUOY_TEST_ALONE=1
  exec unshare -m bash -c 'mount -t tmpfs none /run && exec bash "$0"' "$0"
fi
source "$(dirname "$0")/run_common.bash"
export XDG_RUNTIME_DIR=$WORK/runtime
mkdir -m 700 "$XDG_RUNTIME_DIR"
runs=()
# A server for each terminal: a new one must not meet the last one on its way out.
terminals=0
tmux_here() { tmux -S "$WORK/tmux.$terminals" -f /dev/null "$@"; }
trap 'tmux_here kill-server 2>/dev/null; ((${#runs[@]} == 0)) || kill -KILL "${runs[@]}" 2>/dev/null
  rm -rf "$WORK"' EXIT

# start BUDGET PROGRAM [ARG...]: a run in the background; $run is its process, once it can be seen.
start() {
  "$BUOY" run --budget "$1" -- "${@:2}" >"$WORK/out" 2>&1 &
  run=$!
  runs+=("$run")
  for _ in {1..200}; do
    [[ $("$BUOY" stat "$run" --json 2>/dev/null) == *'"stats"'* ]] && return
    sleep 0.05
  done
  fail "the run of $2 cannot be seen: $("$BUOY" ps 2>&1)"
}
picture() { tmux_here capture-pane -p -t top; }
# shows PATTERN: within some twenty seconds. (hides: no longer.)
shows() {
  local _
  for _ in {1..400}; do
    picture | grep -qE -- "$1" && return
    sleep 0.05
  done
  return 1
}
hides() {
  local _
  for _ in {1..400}; do
    picture | grep -qE -- "$1" || return 0
    sleep 0.05
  done
  return 1
}
# open_top WIDTH HEIGHT [TERM]
open_top() {
  tmux_here kill-server 2>/dev/null
  terminals=$((terminals + 1))
  tmux_here new-session -d -s top -x "$1" -y "$2" \
    "TERM=${3:-screen-256color} '$BUOY' top --interval 0.3; echo status \$?; sleep 100"
}
has_colours() { tmux_here capture-pane -p -e -t top | grep -q $'\e\\[3[1-6]m'; }
press() { tmux_here send-keys -t top "$@"; }

# ---- Without a terminal ---------------------------------------------------------------------------
refused_by "$BUOY" 2 "no terminal.*--once" top
refused_by "$BUOY" 2 "interval" top --interval 0
refused_by "$BUOY" 2 "top" top 4711
"$BUOY" top --help | grep -q "^Example: buoy top" || fail "no example in its help"
"$BUOY" top --once --interval 0.1 >"$WORK/once" || fail "--once of nothing"
grep -q "^0 runs, 0 processes" "$WORK/once" || fail "--once of nothing: $(cat "$WORK/once")"

# Pages that come and go all the time.
cat >"$WORK/churn.py" <<'PY'
import sys, time
data = bytearray(60 << 20)
for i in range(0, len(data), 64): data[i] = i * 7 & 255
print("ready", flush=True)
while True:
    for i in range(0, len(data), 4096): data[i] = data[i] + 1 & 255
    time.sleep(0.01)
PY
start 24M python3 "$WORK/churn.py"
churn=$run
start 64M bash -c 'sleep 1000 & wait'
idle=$run
for _ in {1..200}; do
  (($("$BUOY" ps | grep -c "$idle .*sleep") == 2)) && grep -q ready "$WORK/out" && break
  sleep 0.05
done
"$BUOY" top --once --interval 0.5 >"$WORK/once" || fail "--once"
python3 - "$WORK/once" "$churn" "$idle" <<'PY' || fail "--once: $(cat "$WORK/once")"
import re, sys
lines = open(sys.argv[1]).read().splitlines()
assert re.match(r"2 runs, [34] processes: resident [\d.]+M of \d+M$", lines[0]), lines[0]
head = lines[4].split()
rows = {int(words[0]): dict(zip(head, words)) for words in map(str.split, lines[5:])}
churn, idle = rows[int(sys.argv[2])], rows[int(sys.argv[3])]
assert head[-1] == "COMMAND" and lines[5].split()[0] == sys.argv[2], lines[5]
assert churn["BUDGET"] == "24.0M" and 12 < float(churn["RESIDENT"][:-1]) <= 24, churn
assert churn["COMPR"] != "0" and float(churn["RATIO"][:-1]) > 1.5, churn
assert float(churn["FAULT/S"].rstrip("k")) > 10 and float(churn["MAJ/S"].rstrip("k")) > 10, churn
assert re.fullmatch(r"[\d.]+[num]s", churn["P50"]) and re.fullmatch(r"[\d.]+[num]s", churn["P99"]), churn
assert 0.1 < float(churn["PRESS"][:-1]) < 800, churn
assert idle["PRESS"] == "0.0%" and idle["P50"] == "-", idle
assert len(rows) == 2 + int(lines[0].split()[2]), rows
PY

command -v tmux >/dev/null || {
  skip "no tmux: the live picture is not tried (apt-get install tmux)"
  finish
}

# ---- Sizes ----------------------------------------------------------------------------------------
# Nothing is wider than the terminal, and the least is there: the runs, and the keys.
for size in "80 24" "200 50" "120 12" "40 10" "20 5"; do
  read -r width height <<<"$size"
  open_top "$width" "$height"
  ((height < 10)) || shows "^ *$churn " || { fail "at $size: $(picture)"; continue; }
  [[ $(picture | wc -l) == "$height" ]] || fail "at $size: $(picture | wc -l) lines"
  ((height < 10)) || shows "^h help" || fail "no keys at $size: $(picture)"
  ((width < 80)) || shows "PRESS +COMMAND" || fail "no pressure at $size: $(picture)"
  ((width < 200)) || shows "LAZY VOLATILE STANDBY +COMPR +RATIO +FILE +FAULT/S +MAJ/S +P50 +P99 +PRESS" ||
    fail "columns at $size: $(picture)"
done
# Resized under way.
open_top 80 24
shows "h help" && tmux_here resize-window -t top -x 130 -y 40
shows "LAZY" || fail "made wider: $(picture)"
tmux_here resize-window -t top -x 30 -y 8
hides "LAZY" && shows "RESIDENT COMMAND" || fail "made narrower: $(picture)"
tmux_here resize-window -t top -x 100 -y 30
shows "BUDGET" || fail "made wider again: $(picture)"

# ---- Keys -----------------------------------------------------------------------------------------
shows "how long its faults took" || fail "no details: $(picture)"
press d
hides "how long its faults took" || fail "details that do not go: $(picture)"
press h
shows "this help" || fail "no help: $(picture)"
press x
hides "this help" || fail "help that does not go: $(picture)"
press t
hides "run: " || fail "processes alone: $(picture)"
press t
shows "run: " || fail "runs again: $(picture)"
# By its number, the lowest first: the older run; then the other way round.
press -N 9 "<"
first_row() { picture | sed -n 5p; }
first_is() { local _; for _ in {1..100}; do [[ $(first_row) == *" $1 "* ]] && return; sleep 0.05; done; return 1; }
first_is "$churn" || fail "sorted by number: $(picture)"
press r
first_is "$idle" || fail "sorted the other way round: $(picture)"
press r
first_is "$churn" || fail "and back: $(picture)"

# Another budget: none after Esc, none that is no size or too small; of the chosen process alone.
press Home
press b
shows "new budget of run $churn" || { fail "no question, or another run's: $(picture)"; finish; }
press "32M" Escape
shows "stays as it is" || fail "Esc: $(picture)"
press b && press "lots" Enter
shows "'lots' is not a size" || fail "no size: $(picture)"
press b && press "1M" Enter
shows "a budget is from 16M" || fail "too small: $(picture)"
"$BUOY" stat "$churn" --json | grep -q '"budget_bytes":25165824' || fail "the budget was changed"
press b && press "99M" BSpace BSpace BSpace "32M" Enter
shows "budget 32M" || fail "no new budget: $(picture)"
"$BUOY" stat "$churn" --json | grep -q '"budget_bytes":33554432' || fail "the budget was not changed: $(picture)"
shows "^ *$churn +32.0M" || fail "the picture has the old budget: $(picture)"

# A run that ends leaves the picture.
kill -TERM "$idle"
hides "^ *$idle " || fail "a run that ended is shown: $(picture)"

# ---- Ends -----------------------------------------------------------------------------------------
press q
shows "^status 0" || fail "q: $(picture)"
open_top 80 24
shows "h help" && press C-c
shows "^status 0" || fail "Ctrl-C: $(picture)"
# A terminal without colours, and one that nobody knows.
open_top 80 24 vt100
shows "^ *$churn " || fail "vt100: $(picture)"
! has_colours || fail "colours on a vt100"
open_top 100 24
shows "^ *$churn " || fail "in colours: $(picture)"
has_colours || fail "no colours where there are some: $(tmux_here capture-pane -p -e -t top | cat -v)"
open_top 80 24 no-such-terminal
shows "terminal 'no-such-terminal' is not known.*TERM" && shows "^status 2" || fail "an unknown terminal: $(picture)"
kill -TERM "$churn"
finish
