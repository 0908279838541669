#!/usr/bin/env bash
# Our own programs, natively and under `buoy run` with budgets that they need several times over.
# ctest: timeout=1800
source "$(dirname "$0")/run_common.bash"

file="--backing-file auto"
same_as_native 256M ""      "$PROGRAMS/stamp_pages" 96 2 100000
same_as_native 48M  ""      "$PROGRAMS/stamp_pages" 64 4 100000
same_as_native 24M  "$file" "$PROGRAMS/stamp_pages" 48 2 30000
same_as_native 256M ""      "$PROGRAMS/mmap_zoo" 48
same_as_native 32M  "$file" "$PROGRAMS/mmap_zoo" 48
same_as_native 32M  "$file" "$PROGRAMS/outside_zoo"
same_as_native 24M  "$file --backing-file-encryption chacha20" "$PROGRAMS/stamp_pages" 48 2 30000
same_as_native 24M  "$file" "$PROGRAMS/closed_zoo" 72
same_as_native 64M  ""      "$PROGRAMS/address_space"
same_as_native 32M  "$file" "$PROGRAMS/address_space" 2000
same_as_native 256M ""      "$PROGRAMS/malloc_zoo" 48
same_as_native 32M  "$file" "$PROGRAMS/malloc_zoo" 40
for conf in dirty_decay_ms:0 dirty_decay_ms:2,retain:true; do
  export BUOY_MALLOC_CONF=$conf
  same_as_native 256M ""      "$PROGRAMS/malloc_churn" 4 200000
  same_as_native 24M  "$file" "$PROGRAMS/malloc_churn" 4 20000
done
unset BUOY_MALLOC_CONF
same_as_native 256M ""      "$PROGRAMS/fork_zoo" 64 20
same_as_native 32M  "$file" "$PROGRAMS/fork_zoo" 64 8
same_as_native 64M  ""      "$PROGRAMS/fork_storm" 250 6
same_as_native 24M  "$file" "$PROGRAMS/descriptor_zoo" 48
(ulimit -n 64; same_as_native 24M  "$file" "$PROGRAMS/descriptor_zoo" 48; exit "$failures") || failures=$((failures + 1))
same_as_native 256M ""      "$PROGRAMS/signals" 64
same_as_native 32M  "$file" "$PROGRAMS/signals" 48
same_as_native 256M ""      "$PROGRAMS/spawn_zoo" 48
same_as_native 32M  "$file" "$PROGRAMS/spawn_zoo" 48
same_as_native 256M ""      "$PROGRAMS/io_in_flight" 64 3
same_as_native 32M  "$file" "$PROGRAMS/io_in_flight" 64 5
same_as_native 32M  "$file --compressor zstd" "$PROGRAMS/stamp_pages" 64 2 30000

same_as_native 16M  ""      "$PROGRAMS/memory_kinds"
same_as_native 16M  "--faults thread" "$PROGRAMS/memory_kinds"
same_as_native 24M  ""      "$PROGRAMS/seal_zoo"
same_as_native 24M  "--faults thread" "$PROGRAMS/seal_zoo"
same_as_native 32M  ""      "$PROGRAMS/lock_everything"
same_as_native 32M  "--faults thread" "$PROGRAMS/lock_everything"
# Asked until they say no; natively a number of MiB stands for where memory ends.
for budget in 16M 32M 64M; do
  same_as_native $budget "--backing-file none --on-exhausted enomem" "$PROGRAMS/refused_in_time" 80
done
same_as_native 48M "--backing-file none --compressor none --on-exhausted enomem" "$PROGRAMS/refused_in_time" 80
same_as_native 32M "--backing-file none --faults thread --on-exhausted enomem" "$PROGRAMS/refused_in_time" 80

# Every way to end: the same status, and statistics: those that a signal ends cannot write them.
for way in return exit _exit _Exit quick_exit syscall pthread_exit closed abort kill term segv; do
  same_as_native 32M "" "$PROGRAMS/exits" "$way"
  case $way in
    abort) signal=6 ;;
    kill) signal=9 ;;
    term) signal=15 ;;
    segv) signal=11 ;;
    *) signal="" ;;
  esac
  [[ -s $WORK/stats && $(stat_of "$WORK/stats" ended_by_signal) == "$signal" ]] ||
    fail "exits $way: $(cat "$WORK/stats")"
done
finish
