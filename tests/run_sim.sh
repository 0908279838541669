#!/usr/bin/env bash
# buoy-sim: its command line, its formats, and that the engine in it and the engine in a process do the
# same to the same accesses.
# ctest: labels=no_sanitizer timeout=300 serial
source "$(dirname "$0")/run_common.bash"
SIM=$BUILD_DIR/buoy-sim
[[ -x $SIM ]] || { echo "no buoy-sim in $BUILD_DIR"; exit 77; }

refused() { refused_by "$SIM" 2 "$@"; }
# field NAME FILE: a number of the last result in JSON.
field() { sed -n "s/.*\"$1\": \([0-9.e-]*\),\{0,1\}$/\1/p" "$2" | tail -n 1; }

printf '1\n2\n1\n' >"$WORK/pages"
refused "nothing to replay"
refused "one of them" --trace "$WORK/pages" --pattern zipf
refused "unknown option '--bogus'" --bogus
refused "unknown option 'zipf'" zipf
refused "--budget needs a value" --pattern zipf --budget
refused "'12Q' is no size" --pattern zipf --budget 12Q
refused "is below 64K" --pattern zipf --budget 4K
refused "no policy 'fifo'" --pattern zipf --policy fifo
refused "no pattern 'zpif'" --pattern zpif
refused "no parameter 'hot=1'" --pattern zipf:hot=1
refused "its smallest budget is 16M" --trace "$WORK/pages" --policy engine --budget 1M
refused "No such file" --trace "$WORK/none"
refused "No such file" --pattern zipf --html "$WORK/none/page.html"
refused "not a page number" --trace "$SIM" --format pages
refused "leaves nothing to count" --trace "$WORK/pages" --warmup 3
refused "none of lz4" --pattern zipf --compressor lzo
[[ ! -e $WORK/page.html ]] || fail "a refused --html left a file"

timeout 20 "$SIM" --list >"$WORK/out" || fail "--list: status $?"
for name in zipf scan+zipf churn index engine opt lru clock arc lirs s3fifo; do
  grep -q "^  $name" "$WORK/out" || fail "--list does not name $name"
done

# Sixteen pages of room, a loop of seventeen: LRU misses always but for the first accesses, OPT once in
# sixteen times or so.
for ((pass = 0; pass < 10; ++pass)); do seq 0 16; done >"$WORK/loop"
timeout 20 "$SIM" --trace "$WORK/loop" --budget 64K --policy lru --policy opt --json \
  >"$WORK/json" 2>"$WORK/err" || fail "--json: $(cat "$WORK/err")"
[[ $(grep '"misses"' "$WORK/json" | tr -dc '0-9\n' | paste -sd' ') == "153 9" ]] ||
  fail "a loop of 17 in 16: $(grep '"misses"' "$WORK/json" | paste -sd' '), not 153 by LRU and 9 by OPT"

# A pattern written to a file and read back is the same trace.
pattern=(--pages 4096 --accesses 30000 --budget 8M --policy lru,arc)
timeout 60 "$SIM" --pattern churn "${pattern[@]}" --write-trace "$WORK/trace" --json "$WORK/a" >"$WORK/out"
timeout 60 "$SIM" --trace "$WORK/trace" --budget 8M --policy lru,arc --json "$WORK/b" >"$WORK/out"
[[ -s $WORK/a && $(grep misses "$WORK/a") == "$(grep misses "$WORK/b")" ]] ||
  fail "a trace that was written and read: $(grep misses "$WORK/b" | paste -sd' ')"

# The page is one file, says what it shows, and has drawn everything.
echo "what was there before" >"$WORK/page.html"
timeout 120 "$SIM" --pattern zipf --pages 16384 --accesses 100000 --budget 20M,32M,48M \
  --html "$WORK/page.html" >"$WORK/out" 2>"$WORK/err" || fail "--html: $(cat "$WORK/err")"
[[ $(head -c 15 "$WORK/page.html") == "<!doctype html>" ]] || fail "--html: no page of HTML"
tail -n 1 "$WORK/page.html" | grep -q "</html>" || fail "--html: the page is cut off"
grep -q "what was there before" "$WORK/page.html" && fail "--html: the page was appended"
grep -qiE "(src|href)=|url\(|@import|https?:|<script" "$WORK/page.html" && fail "--html: the page loads something"
for word in "budget (MiB)" "misses (% of accesses)" "accesses (million)" "size (MiB)" "page (MiB)" \
  engine opt lru clock arc lirs s3fifo mapped standby "compressed pool" "in the file"; do
  grep -qF "$word" "$WORK/page.html" || fail "--html: the page does not tell of: $word"
done

# ---- The simulator and a process agree ------------------------------------------------------------

# replay PATTERN BUDGET: the trace in $WORK/trace; a process's major faults in $real.
replay() {
  rm -f "$WORK/stats"
  timeout 60 "$SIM" --pattern "$1" --pages 8192 --accesses "${3:-60000}" --policy lru --budget 1M \
    --write-trace "$WORK/trace" >"$WORK/out" 2>"$WORK/err" || fail "$1: $(cat "$WORK/err")"
  timeout -k 5 200 "$BUOY" run --budget "$2" --backing-file none --stats "$WORK/stats" -- \
    "$PROGRAMS/replay_trace" "$WORK/trace" 0.33 >"$WORK/out" 2>"$WORK/err" ||
    fail "$1 in a process: $(cat "$WORK/err")"
  real=$(stat_of "$WORK/stats" pgmajfault)
}
# simulate BUDGET [OPTION...]: the engine's major faults of $WORK/trace in $simulated.
simulate() {
  timeout 100 "$SIM" --trace "$WORK/trace" --policy engine --budget "$1" --backing-file none "${@:2}" \
    --json "$WORK/json" >"$WORK/out" 2>"$WORK/err" || fail "simulated: $(cat "$WORK/err")"
  simulated=$(field major_faults_of_whole_trace "$WORK/json")
}
# agrees PATTERN BUDGET PER_MILLE [ACCESSES]: the engine's major faults of the same trace are as many.
agrees() {
  replay "$1" "$2" "${4:-60000}"
  simulate "$2"
  local off=$(((real - simulated) * 1000 / simulated))
  echo "$1: $simulated major faults simulated, $real in a process: $off per mille"
  ((simulated > 500 && off >= -$3 && off <= $3)) || fail "$1: $off per mille apart"
}
agrees random 20M 30
agrees scan 20M 30
agrees zipf 20M 30 100000
# How far ahead reclaim is when a scan comes depends on when its thread has a CPU.
agrees scan+zipf 20M 80 100000
# A loop also hangs on what taking pages away costs, which a process measures all the time: between what
# the simulator says of small costs and of large ones.
replay loop 20M 100000
simulate 20M --take-ns 1000
cheap=$simulated
simulate 20M --take-ns 100000
((cheap <= simulated)) && low=$cheap high=$simulated || low=$simulated high=$cheap
echo "loop: $low to $high major faults simulated, $real in a process"
((low > 500 && real >= low * 97 / 100 && real <= high * 103 / 100)) ||
  fail "loop: $real major faults in a process, $low to $high simulated"

# ---- A process is recorded --------------------------------------------------------------------------

# run_refused PATTERN ARG...: buoy run ends with status 2 and one line.
run_refused() {
  local pattern=$1
  shift
  timeout 20 "$BUOY" run --budget 20M "$@" -- /bin/true >"$WORK/out" 2>"$WORK/err"
  [[ $? == 2 && $(wc -l <"$WORK/err") == 1 ]] && grep -q "^buoy: run: --trace.*$pattern" "$WORK/err" ||
    fail "buoy run $*: $(cat "$WORK/err")"
}
run_refused "an empty name" --trace ""
run_refused "Is a directory" --trace "$WORK"
run_refused "No such file" --trace "$WORK/none/trace"
run_refused "no ordinary file" --trace /dev/null

# Every fault of one thread is an access in its trace, whichever way faults come; what it was left from
# before is gone.
timeout 60 "$SIM" --pattern churn --pages 8192 --accesses 60000 --policy lru --budget 1M \
  --write-trace "$WORK/trace" >"$WORK/out" || fail "churn: $(cat "$WORK/out")"
for faults in signal thread; do
  echo "what was there before" >"$WORK/recorded"
  rm -f "$WORK/stats"
  timeout -k 5 200 "$BUOY" run --budget 16M --faults $faults --trace "$WORK/recorded" --stats "$WORK/stats" -- \
    "$PROGRAMS/replay_trace" "$WORK/trace" 0.33 >"$WORK/out" 2>"$WORK/err" || {
    skip "--faults $faults: $(cat "$WORK/err")"
    continue
  }
  timeout 60 "$SIM" --trace "$WORK/recorded" --budget 16M --policy lru --json "$WORK/json" >"$WORK/out" 2>"$WORK/err" ||
    fail "a recorded trace: $(cat "$WORK/err")"
  accesses=$(field accesses "$WORK/json")
  [[ $accesses -gt 1000 && $accesses == "$(stat_of "$WORK/stats" pgfault)" ]] ||
    fail "--faults $faults: $accesses accesses recorded of $(stat_of "$WORK/stats" pgfault) faults"
  # MADV_DONTNEED: pages that are first touched again.
  (($(field first_accesses "$WORK/json") > $(field footprint_pages "$WORK/json"))) ||
    fail "--faults $faults: no page was discarded in the trace"
  echo "--faults $faults: $accesses accesses recorded, as many as faults"
done

# Children write files of their own, also those that execute; what executes goes on in the same file.
rm -f "$WORK"/family*
timeout -k 5 60 "$BUOY" run --budget 16M --trace "$WORK/family" -- /bin/bash -c \
  '/bin/true & wait; (exec /bin/true); exec /bin/true' 2>"$WORK/err" || fail "a family: $(cat "$WORK/err")"
headers() { grep -a -o 'BUOY-TRC' "$1" | wc -l; }
[[ $(headers "$WORK/family") == 2 ]] || fail "bash and what it became: not two headers"
children=("$WORK"/family.*)
((${#children[@]} == 2)) || fail "two children: ${#children[@]} files"
for child in "${children[@]}"; do
  [[ $(headers "$child") == 2 ]] || fail "a child and what it became: not two headers"
done
finish
