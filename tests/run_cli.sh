#!/usr/bin/env bash
# The command line of `buoy`: every wrong word ends with the right status and one clear line; what is
# sent to buoy reaches the program; nothing is left behind.
# ctest: timeout=120
source "$(dirname "$0")/run_common.bash"

refused() { refused_by "$BUOY" "$@"; }

refused 2 "no command"
refused 2 "unknown command" frobnicate
refused 2 "no arguments" info now
refused 2 "budget" run
refused 2 "budget" run true
refused 2 "no program" run --budget 64M
refused 2 "no program" run --budget 64M --
refused 2 "needs a value" run --budget
refused 2 "not a size" run --budget lots true
refused 2 "not a size" run --budget 64MB true
refused 2 "not a size" run --budget -64M true
refused 2 "not a size" run --budget "" true
refused 2 "not a size" run --budget 1.5G true
refused 2 "not a size" run --budget 99999999999999999999 true
refused 2 "not a size" run --budget 18446744073709551615G true
refused 2 "zero" run --budget 0 true
refused 2 "below" run --budget 1M true
refused 2 "below" run --budget=16777215 true
refused 2 "above" run --budget 90000G true
refused 2 "unknown option" run --bogus true
refused 2 "unknown option" run --budget 64M -x true
refused 2 "none of" run --budget 64M --compressor gzip true
refused 2 "none of" run --budget 64M --faults never true
refused 2 "none of" run --budget 64M --on-exhausted panic true
refused 2 "empty" run --budget 64M --stats= true
refused 2 "No such file" run --budget 64M --backing-file "$WORK/none/file" true
refused 2 "exists" run --budget 64M --backing-file "$WORK" true
refused 2 "not a size" run --budget 64M --backing-file-size lots true
refused 2 "below" run --budget 64M --backing-file-size 0 true
refused 2 "below" run --budget 64M --backing-file-size 1023K true
refused 2 "no file" run --budget 64M --backing-file none --backing-file-size 64M true
refused 2 "none of" run --budget 64M --backing-file-encryption rot13 true
refused 2 "not a size" run --budget 64M --compressed-size -1 true
refused 2 "below" run --budget 64M --compressed-size 4K true
echo precious >"$WORK/precious"
refused 2 "exists" run --budget 64M --backing-file "$WORK/precious" true
[[ $(cat "$WORK/precious") == precious ]] || fail "a file that was there is gone"
if [[ $(stat -f -c %T /dev/shm 2>/dev/null) == tmpfs ]]; then
  refused 2 "tmpfs" run --budget 64M --backing-file /dev/shm/buoy-test-file true
  [[ ! -e /dev/shm/buoy-test-file ]] || fail "a probe was left in /dev/shm"
  TMPDIR=/dev/shm refused 2 "tmpfs" run --budget 64M --backing-file auto true
fi
refused 127 "not found" run --budget 64M no-such-program-anywhere
refused 127 "not found" run --budget 64M "$WORK/no-such-program"
refused 126 "directory" run --budget 64M "$WORK"
refused 126 "ermission" run --budget 64M /etc/passwd
printf '#!/no/such/interpreter\n' >"$WORK/script" && chmod +x "$WORK/script"
refused 126 "interpreter" run --budget 64M "$WORK/script"
cp "$(type -P true)" "$WORK/setuid" && chmod 4755 "$WORK/setuid"
refused 126 "setuid" run --budget 64M "$WORK/setuid"
if echo 'int main(){return 0;}' | g++ -static -x c++ -o "$WORK/static" - 2>/dev/null; then
  refused 126 "statically" run --budget 64M "$WORK/static"
  # Executed by a program that has a budget.
  printf '#!%s\n' "$WORK/static" >"$WORK/interpreted" && chmod +x "$WORK/interpreted"
  printf '#!/bin/bash\nexec "%s"\n' "$WORK/static" >"$WORK/plain_exec" && chmod +x "$WORK/plain_exec"
  for how in "sh -c $WORK/static" "env $WORK/static" "env PATH=$WORK static" "$WORK/plain_exec" \
    "sh -c $WORK/interpreted" "find $WORK/static -exec {} ;" "timeout 5 $WORK/static"; do
    # shellcheck disable=SC2086
    timeout 20 "$BUOY" run --budget 32M $how >"$WORK/out" 2>"$WORK/err"
    grep -q "^buoy: not executed: $WORK/static is statically linked" "$WORK/err" ||
      fail "$how: $(cat "$WORK/err")"
    # shellcheck disable=SC2086
    timeout 20 "$BUOY" run --budget 32M --unmanaged-exec allow $how >"$WORK/out" 2>"$WORK/err"
    [[ $? == 0 ]] || fail "$how, allowed: $(cat "$WORK/err")"
    [[ $(grep -c "^buoy: runs without a budget: $WORK/static" "$WORK/err") == 1 ]] ||
      fail "$how, allowed: $(cat "$WORK/err")"
  done
  "$BUOY" run --budget 32M sh -c "$WORK/static" 2>/dev/null
  [[ $? == 126 ]] || fail "a static program: not the status of what cannot be executed"
fi
if [[ $(id -u) == 0 ]]; then
  "$BUOY" run --budget 32M sh -c "$WORK/setuid" 2>"$WORK/err" || fail "rights that root has: $(cat "$WORK/err")"
  chown nobody "$WORK/setuid" && chmod 4755 "$WORK/setuid"
  "$BUOY" run --budget 32M sh -c "$WORK/setuid" 2>"$WORK/err"
  [[ $? == 126 ]] || fail "a setuid program was executed"
  grep -q "^buoy: not executed: .*gains rights" "$WORK/err" || fail "setuid: $(cat "$WORK/err")"
fi
refused 2 "none of" run --budget 64M --unmanaged-exec perhaps true

"$BUOY" --help | grep -q "buoy run" || fail "--help"
"$BUOY" run --help | grep -q "child of PROGRAM has a budget" || fail "run --help"
"$BUOY" --version | grep -q "^buoy [0-9]" || fail "--version"
"$BUOY" info | grep -q "^kernel" || fail "info"

# The words of the program are its own, whatever they look like.
[[ $("$BUOY" run --budget 32M echo --budget x -- y) == "--budget x -- y" ]] || fail "arguments"
[[ $("$BUOY" run --budget 33554432 --on-exhausted wait -- sh -c 'echo "$0 $1"' a 'b c') == "a b c" ]] ||
  fail "arguments after --"
[[ $(echo through | "$BUOY" run --budget 32M cat) == through ]] || fail "stdin"
printf 'echo "$1"\n' >"$WORK/plain" && chmod +x "$WORK/plain"
[[ $("$BUOY" run --budget 32M "$WORK/plain" word) == word ]] || fail "a script without #!"
"$BUOY" run --budget 32M sh -c 'exit 41'
[[ $? == 41 ]] || fail "exit status"
"$BUOY" run --budget 32M sh -c 'kill -USR1 $$' 2>/dev/null
[[ $? == $((128 + 10)) ]] || fail "death by signal"
grep -q "larger than this machine" <("$BUOY" run --budget 8192G true 2>&1) || fail "budget above RAM"
"$BUOY" run --budget 8192G true 2>/dev/null || fail "a budget above RAM must run"

# Statistics: one object a process.
"$BUOY" run --budget 32M --stats "$WORK/stats" sh -c 'cd /; sh -c true; true' || fail "stats run"
[[ $(wc -l <"$WORK/stats") == 1 ]] || fail "stats of the first process"
compgen -G "$WORK/stats.*" >/dev/null || fail "stats of the others"
grep -q '"budget_bytes":33554432' "$WORK/stats" || fail "stats: $(cat "$WORK/stats")"
"$BUOY" run --budget 32M --stats - true 2>&1 | grep -q '^{.*"pgfault":' || fail "stats to stderr"

# Signals that are sent to buoy reach the program.
"$BUOY" run --budget 32M sh -c 'trap "exit 33" TERM; echo ready; while :; do sleep 0.1; done' >"$WORK/out" &
pid=$!
until grep -q ready "$WORK/out" 2>/dev/null; do sleep 0.05; done
kill -TERM $pid
wait $pid
[[ $? == 33 ]] || fail "SIGTERM was not passed on"

# Stopped together, continued together. In a process group of their own, with this shell outside it: a
# group that nobody could continue ignores SIGTSTP.
set -m
"$BUOY" run --budget 32M sleep 30 &
pid=$!
set +m
until child=$(pgrep -P $pid) && [[ $(cat "/proc/$child/comm") == sleep ]]; do sleep 0.05; done
kill -TSTP $pid
for _ in {1..40}; do
  [[ $(awk '{print $3}' /proc/$pid/stat) == T && $(awk '{print $3}' "/proc/$child/stat") == T ]] && break
  sleep 0.05
done
[[ $(awk '{print $3}' /proc/$pid/stat) == T ]] || fail "buoy did not stop with its program"
kill -CONT $pid
for _ in {1..40}; do
  [[ $(awk '{print $3}' "/proc/$child/stat") != T ]] && break
  sleep 0.05
done
[[ $(awk '{print $3}' "/proc/$child/stat") != T ]] || fail "the program was not continued"
kill -TERM $pid
wait $pid
[[ $? == $((128 + 15)) ]] || fail "death of the program by SIGTERM"

# Killed for good: the program goes too, and no file stays.
mkdir "$WORK/tmp"
TMPDIR=$WORK/tmp "$BUOY" run --budget 32M --backing-file auto sleep 30 &
pid=$!
until child=$(pgrep -P $pid) && [[ $(cat "/proc/$child/comm") == sleep ]]; do sleep 0.05; done
kill -KILL $pid
wait $pid 2>/dev/null
for _ in {1..40}; do
  [[ -e /proc/$child ]] || break
  sleep 0.05
done
[[ ! -e /proc/$child ]] || fail "kill -9 of buoy left the program running"
[[ -z $(ls -A "$WORK/tmp") ]] || fail "kill -9 left files: $(ls "$WORK/tmp")"

# Without rights: by signal; handler threads are refused, with the remedy.
if [[ $(id -u) == 0 && $(cat /proc/sys/vm/unprivileged_userfaultfd) == 0 ]] && command -v setpriv >/dev/null; then
  mkdir -m 755 "$WORK/bin" && chmod 755 "$WORK" &&
    cp "$BUOY" "$BUILD_DIR/libbuoy_preload.so" "$WORK/bin/"
  without_rights() {
    setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all --inh-caps=-all \
      "$WORK/bin/buoy" "$@" >"$WORK/out" 2>"$WORK/err"
  }
  without_rights run --budget 32M --faults thread true
  [[ $? == 2 ]] && grep -q "^buoy: .*unprivileged_userfaultfd" "$WORK/err" && [[ $(wc -l <"$WORK/err") == 1 ]] ||
    fail "without rights, by threads: $(cat "$WORK/err")"
  for faults in auto signal; do
    without_rights run --budget 32M --faults $faults --backing-file none \
      sh -c 'for i in 1 2 3; do echo $i; done | tail -n 1'
    [[ $? == 0 && $(cat "$WORK/out") == 3 && ! -s $WORK/err ]] ||
      fail "without rights, --faults $faults: $(cat "$WORK/out" "$WORK/err")"
  done
else
  skip "no rights to drop: not root, no setpriv, or everybody may use userfaultfd"
fi
finish
