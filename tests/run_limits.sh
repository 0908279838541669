#!/usr/bin/env bash
# Limits of the machine around a program under `buoy run`: a memory cgroup in which the program alone
# is killed, and a disk that is too small for its backing file. Both need root, and are skipped, with
# the reason, where they cannot be set up.
# ctest: timeout=300 serial
source "$(dirname "$0")/run_common.bash"

# ---- One bound for the backing files of a tree ------------------------------------------------------
timeout 120 "$BUOY" run --budget 16M --backing-file-size 24M --stats "$WORK/stats" \
  "$PROGRAMS/disk_tree" 24 >"$WORK/out" 2>"$WORK/err"
status=$?
[[ $status == 0 ]] || fail "disk_tree: status $status: $(tail -n 3 "$WORK/err")"
[[ $(cat "$WORK/out") == "within the bound: yes" ]] || fail "disk_tree: $(cat "$WORK/out")"
grep -q "^buoy: swap: the backing files of this run have reached their bound of 24576 KiB.*--backing-file-size" \
  "$WORK/err" || fail "disk_tree: nobody was told of the bound: $(cat "$WORK/err")"
grep -q "^buoy: SIGBUS at" "$WORK/err" || fail "disk_tree: nobody was told why it ended"
[[ $(stat_of "$WORK/stats" backing_files_limit_bytes) == $((24 << 20)) ]] || fail "the bound is not in the statistics"
rm -f "$WORK"/stats*

# A cap on compressed memory: what does not fit there goes to the file.
timeout 100 "$BUOY" run --budget 32M --compressed-size 2M --stats "$WORK/stats" \
  "$PROGRAMS/stamp_pages" 64 1 20000 >"$WORK/out" 2>"$WORK/err" || fail "--compressed-size: $(tail -n 2 "$WORK/err")"
[[ $(stat_of "$WORK/stats" compressed_bytes) -le $((2 << 20)) ]] ||
  fail "compressed pages held $(stat_of "$WORK/stats" compressed_bytes) bytes"
[[ $(stat_of "$WORK/stats" pswpout) -gt 4096 ]] || fail "--compressed-size: little was swapped out"
rm -f "$WORK"/stats*

# ---- A cgroup of budget + 64 MiB, without swap ------------------------------------------------------
group=""
# Makes a memory cgroup of $1 MiB without swap, v1 or v2, into `group`; says why not.
make_group() {
  if [[ $(wc -l </proc/swaps) != 1 ]] && [[ ! -e /sys/fs/cgroup/cgroup.controllers ]]; then
    skip "the machine swaps, and its cgroups (v1) cannot be kept from it"
    return 1
  fi
  local root=/sys/fs/cgroup/memory limit=memory.limit_in_bytes
  if [[ ! -d $root ]]; then
    root=/sys/fs/cgroup limit=memory.max
  fi
  if ! mkdir "$root/buoy-test-$$" 2>/dev/null; then
    skip "no memory cgroup can be made in $root"
    return 1
  fi
  group=$root/buoy-test-$$
  if ! echo $(($1 << 20)) 2>/dev/null >"$group/$limit"; then
    rmdir "$group"
    group=""
    skip "the cgroups in $root have no memory limits"
    return 1
  fi
  [[ $limit == memory.max ]] && echo 0 >"$group/memory.swap.max" 2>/dev/null
  return 0
}
# Runs the words in the group; their exit status.
in_group() {
  bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@"
}
end_group() {
  local _
  for _ in {1..50}; do
    rmdir "$group" 2>/dev/null && return
    sleep 0.1
  done
  fail "the cgroup $group is not empty"
}

if make_group $((64 + 64)); then
  program=("$PROGRAMS/stamp_pages" 200 2 80000)
  in_group "${program[@]}" >"$WORK/out" 2>&1
  status=$?
  # bash says 128 + 9.
  [[ $status == 137 ]] || fail "natively in 128 MiB: status $status, not killed"
  in_group timeout 200 "$BUOY" run --budget 64M --stats "$WORK/stats" -- "${program[@]}" \
    >"$WORK/out" 2>"$WORK/err"
  status=$?
  [[ $status == 0 ]] || fail "under buoy run in 128 MiB: status $status: $(tail -n 2 "$WORK/err")"
  [[ $(stat_of "$WORK/stats" resident_peak_bytes) -le $((64 << 20)) ]] ||
    fail "resident peak $(stat_of "$WORK/stats" resident_peak_bytes)"
  end_group
  echo "ok: killed natively in 128 MiB without swap, finished under buoy run"
fi

# ---- A disk of 16 MiB -------------------------------------------------------------------------------
# Pages that do not compress: three times the budget does not fit, twice the budget minus a little does.
cat >"$WORK/noise.py" <<'PY'
import hashlib, os, sys
pages = int(sys.argv[1]) * 256
data = [os.urandom(4096) for _ in range(pages)]
sums = [hashlib.md5(d).digest() for d in data]
assert all(hashlib.md5(d).digest() == s for d, s in zip(data, sums))
print("intact")
PY
disk=$WORK/disk
mount_disk() {
  [[ $(id -u) == 0 ]] || { skip "only root can mount a small disk"; return 1; }
  command -v mkfs.ext4 >/dev/null || { skip "no mkfs.ext4"; return 1; }
  mkdir "$disk" && truncate -s 20M "$WORK/image" && mkfs.ext4 -q -m 0 "$WORK/image" 2>/dev/null &&
    mount -o loop "$WORK/image" "$disk" 2>/dev/null || { skip "no loop device can be mounted"; return 1; }
}
if [[ ! -x /usr/bin/python3 ]]; then
  skip "no python3"
elif mount_disk; then
  trap 'umount -l "$disk" 2>/dev/null; rm -rf "$WORK"' EXIT
  TMPDIR=$disk timeout 100 "$BUOY" run --budget 48M --backing-file auto --stats "$WORK/stats" -- \
    /usr/bin/python3 "$WORK/noise.py" 32 >"$WORK/out" 2>"$WORK/err"
  status=$?
  [[ $status == 0 && $(cat "$WORK/out") == intact ]] ||
    fail "32 MiB of noise in 48 MiB and a small disk: status $status: $(tail -n 2 "$WORK/err")"
  # More than budget and disk: the toucher hears of it, and of nothing else; no byte was wrong before.
  TMPDIR=$disk timeout 100 "$BUOY" run --budget 32M --backing-file auto --backing-file-size 1G -- \
    /usr/bin/python3 "$WORK/noise.py" 128 >"$WORK/out" 2>"$WORK/err"
  status=$?
  [[ $status == $((128 + 7)) ]] || fail "a full disk: status $status, not SIGBUS"
  [[ ! -s $WORK/out ]] || fail "a full disk: $(cat "$WORK/out")"
  grep -q "^buoy: .*the backing file cannot grow" "$WORK/err" ||
    fail "a full disk: not told: $(tail -n 3 "$WORK/err")"
  grep -q "^buoy: SIGBUS at .*every tier below it are full" "$WORK/err" ||
    fail "the end: not told: $(tail -n 3 "$WORK/err")"
  # Nothing stays behind, and the disk can be used and unmounted.
  [[ $(ls "$disk") == lost+found ]] || fail "left on the disk: $(ls "$disk")"
  umount "$disk" || fail "the disk is still in use"
  echo "ok: a full disk"
fi

# ---- Address space and data, as login profiles and batch systems limit them ------------------------
for limit in "-v 1500000" "-d 1000000"; do
  # shellcheck disable=SC2086
  if (ulimit $limit && timeout 200 "$BUOY" run --budget 64M -- "$PROGRAMS/stamp_pages" 150 2 20000) \
    >"$WORK/out" 2>"$WORK/err"; then
    echo "ok: ulimit $limit"
  else
    fail "ulimit $limit: $(tail -n 2 "$WORK/err")"
  fi
done
finish 2
