#!/usr/bin/env bash
# Programs that give up the rights that `buoy run` was started with, and what they execute then; and
# environments that leave us out. Whatever runs, runs in a budget, or is refused with a line.
# ctest: timeout=300
source "$(dirname "$0")/run_common.bash"

if [[ $(id -u) != 0 ]]; then
  echo "not root, so there are no rights to give up: skipped"
  exit 77
fi
if ! [[ -r /dev/userfaultfd ]]; then
  echo "no /dev/userfaultfd, which is what is kept open: skipped"
  exit 77
fi
chmod 755 "$WORK"

# says NAME WANTED COMMAND...: its output, and nothing on stderr.
says() {
  local name=$1 wanted=$2 got
  shift 2
  got=$(timeout -k 5 60 "$@" 2>"$WORK/err" </dev/null)
  [[ $got == "$wanted" && ! -s $WORK/err ]] || fail "$name: '$got' $(head -n 2 "$WORK/err")"
  echo "ok: $name"
}
run=("$BUOY" run --budget 64M --)
nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups)
says "as nobody" 65534 "${run[@]}" "${nobody[@]}" sh -c 'id -u'
says "as nobody without any capability" 65534 "${run[@]}" \
  "${nobody[@]}" --bounding-set=-all --inh-caps=-all --no-new-privs sh -c 'id -u; :'
says "children of nobody" "65534 65534" "${run[@]}" \
  "${nobody[@]}" sh -c 'echo $(id -u) $( (id -u; :) )'

# Every process of these must have a pool: as many statistics as processes.
budgeted() {
  local name=$1 processes=$2 count
  shift 2
  rm -f "$WORK"/stats*
  timeout -k 5 60 "$BUOY" run --budget 64M --stats "$WORK/stats" -- "$@" >/dev/null 2>"$WORK/err" </dev/null
  count=$(ls "$WORK" | grep -c '^stats')
  [[ $count == "$processes" ]] || fail "$name: $count processes in a budget: $(head -n 2 "$WORK/err")"
  echo "ok: $name"
}
budgeted "an empty environment" 3 sh -c 'env -i /bin/sh -c "/bin/true; :"'
budgeted "another LD_PRELOAD" 1 env LD_PRELOAD=libm.so.6 /bin/true
budgeted "no LD_PRELOAD" 2 sh -c 'unset LD_PRELOAD; /bin/true; :'
got=$(timeout 60 "${run[@]}" env LD_PRELOAD=libm.so.6 sh -c 'echo $LD_PRELOAD')
[[ $got == *libbuoy_preload.so:libm.so.6 ]] || fail "another LD_PRELOAD became '$got'"

# A chroot that our library cannot be read from.
mkdir -p "$WORK/root/bin" "$WORK/root/lib64" "$WORK/root/lib/x86_64-linux-gnu"
cp /bin/echo "$WORK/root/bin/"
cp /lib64/ld-linux-x86-64.so.2 "$WORK/root/lib64/"
cp /lib/x86_64-linux-gnu/libc.so.6 "$WORK/root/lib/x86_64-linux-gnu/"
got=$(timeout 60 "${run[@]}" chroot "$WORK/root" /bin/echo inside 2>"$WORK/err")
status=$?
[[ $status != 0 && -z $got ]] && grep -q "^buoy: not executed: .*without a budget" "$WORK/err" ||
  fail "in a chroot: status $status, '$got', $(head -n 2 "$WORK/err")"
finish
