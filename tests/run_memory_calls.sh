#!/usr/bin/env bash
# Random memory calls natively and in a budget, step by step the same: scripts/memory_calls.py makes what
# differs small, and goes on for as long as it is asked to.
# ctest: timeout=600
source "$(dirname "$0")/run_common.bash"

# alike FIRST SEQUENCES "COMPARE OPTIONS" RUN-OPTION...: a thousand steps each.
alike() {
  local first=$1 sequences=$2 more=$3
  shift 3
  timeout 120 "$PROGRAMS/memory_calls" record "$WORK/calls" "$first" "$sequences" 1000 ||
    { fail "recording $first: status $?"; return; }
  # shellcheck disable=SC2086
  timeout 200 "$BUOY" run "$@" -- "$PROGRAMS/memory_calls" compare "$WORK/calls" "$first" "$sequences" 1000 $more \
    >"$WORK/out" 2>&1 || fail "$first to $((first + sequences - 1)), $*: $(cut -c1-2000 "$WORK/out")"
}

# The comparison finds what differs: another seed.
timeout 60 "$PROGRAMS/memory_calls" record "$WORK/calls" 1 1 100
"$PROGRAMS/memory_calls" compare "$WORK/calls" 2 1 100 >"$WORK/out" && fail "another sequence passes for the same"

alike 1000 30 "" --budget 256M
alike 2000 15 "" --budget 256M --faults thread
alike 3000 15 --pressed --budget 16M --backing-file none
alike 4000 10 --pressed --budget 16M --faults thread
finish
