# What the run_*.sh tests share: sourced, not run. BUILD_DIR comes from ctest.
set -u
BUILD_DIR=${BUILD_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/release}
BUOY=$BUILD_DIR/buoy
PROGRAMS=$BUILD_DIR/tests/programs
[[ -x $BUOY && -e $BUILD_DIR/libbuoy_preload.so ]] || {
  echo "buoy or libbuoy_preload.so is not built: skipped"
  exit 77
}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/buoy-test.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
failures=0
skipped=0

# check PYTHON-EXPRESSION: of d, the JSON on stdin.
check() { python3 -c "import json, sys; d = json.load(sys.stdin); sys.exit(0 if ($1) else 1)"; }
# until_true COMMAND...: for at most ten seconds.
until_true() {
  local _
  for _ in {1..200}; do
    "$@" && return
    sleep 0.05
  done
  return 1
}

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}
# A part of the script that cannot be had here: skip WHY.
skip() {
  echo "SKIPPED: $*"
  skipped=$((skipped + 1))
}
# finish [PARTS]: skipped as a whole if so many parts were, which are all there are.
finish() {
  ((failures == 0)) || { echo "$failures failures"; exit 1; }
  ((skipped == 0)) || echo "$skipped skipped"
  ((skipped == ${1:-0} && skipped != 0)) && exit 77
  echo "all that ran passed"
  exit 0
}
# refused_by COMMAND STATUS PATTERN ARG...: this status, nothing on stdout, and one line on stderr, in
# which PATTERN follows the command's name.
refused_by() {
  local command=$1 expected=$2 pattern=$3 status name
  name=$(basename "$1")
  shift 3
  timeout "${REFUSAL_SECONDS:-20}" "$command" "$@" >"$WORK/refused.out" 2>"$WORK/refused.err" </dev/null
  status=$?
  [[ $status == "$expected" ]] || fail "$name $*: status $status, not $expected"
  [[ ! -s $WORK/refused.out ]] || fail "$name $*: wrote to stdout"
  [[ $(wc -l <"$WORK/refused.err") == 1 ]] || fail "$name $*: $(wc -l <"$WORK/refused.err") lines on stderr"
  grep -q "^$name: .*$pattern" "$WORK/refused.err" || fail "$name $*: $(cat "$WORK/refused.err")"
}
# A number from a statistics file: stat FILE NAME.
stat_of() { sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p" "$1"; }

# same_as_native BUDGET "BUOY OPTIONS" PROGRAM [ARG...]: output and status as natively; the resident
# peak, as the process itself counts it, within the budget.
same_as_native() {
  local budget=$1 options=$2 native status
  shift 2
  timeout -k 5 200 "$@" >"$WORK/native.out" 2>"$WORK/native.err" </dev/null
  native=$?
  rm -f "$WORK"/stats*
  local start=$SECONDS
  # shellcheck disable=SC2086
  timeout -k 5 200 "$BUOY" run --budget "$budget" $options --stats "$WORK/stats" -- "$@" \
    >"$WORK/buoy.out" 2>"$WORK/buoy.err" </dev/null
  status=$?
  local name="$(basename "$1") ${*:2}"
  [[ $status == "$native" ]] || {
    fail "$name in $budget: status $status, natively $native"
    tail -n 3 "$WORK/buoy.err"
  }
  cmp -s "$WORK/native.out" "$WORK/buoy.out" || fail "$name in $budget: other output"
  cmp -s "$WORK/native.err" "$WORK/buoy.err" || fail "$name in $budget: other stderr: $(head -n 2 "$WORK/buoy.err")"
  local file
  for file in "$WORK"/stats*; do
    [[ -e $file ]] || continue
    local peak limit
    peak=$(stat_of "$file" resident_peak_bytes)
    limit=$(stat_of "$file" budget_bytes)
    [[ -n $peak && $peak -le $limit ]] || fail "$name: resident peak $peak above the budget $limit"
  done
  echo "ok: ${name:0:60} in $budget: $((SECONDS - start)) s, $(ls "$WORK" | grep -c '^stats') processes, peak $(stat_of "$WORK/stats" resident_peak_bytes 2>/dev/null), pswpout $(stat_of "$WORK/stats" pswpout 2>/dev/null)"
}
