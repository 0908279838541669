#!/usr/bin/env bash
# Real programs of Debian, natively and within half and a quarter of what they want: the same output
# and status. One that is not installed is skipped, and says so.
# ctest: timeout=1800
#
#   run_real.sh [python] [sqlite] [sort] [redis]     without a name: all
source "$(dirname "$0")/run_common.bash"

file="--backing-file auto"
has() {
  [[ -x $1 ]] && return 0
  skip "$1 is not installed"
  return 1
}

# ---- CPython: a dict and lists of some 100 MB, walked in another order -------------------------
try_python() {
  local python=/usr/bin/python3
  has $python || return
  cat >"$WORK/walk.py" <<'PY'
import hashlib, os, subprocess, sys
n = int(sys.argv[1])
table = {i * 7919 % 10000019: "value-%d" % i for i in range(n)}
lists = [[j, str(j)] for j in range(n // 4)]
digest = hashlib.sha256()
for key in sorted(table):
    digest.update(table[key].encode())
print(len(table), digest.hexdigest(), sum(pair[0] for pair in lists))
child = os.fork()
if child == 0:
    print("child", len(table), lists[n // 8])
    sys.stdout.flush()
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(subprocess.run(["sh", "-c", "echo spawned"], capture_output=True).stdout)
sys.exit(5)
PY
  same_as_native 50M "" $python "$WORK/walk.py" 400000
  same_as_native 25M "$file" $python "$WORK/walk.py" 400000
}

# ---- sqlite3: a table in memory, loaded and sorted -------------------------------------------------
try_sqlite() {
  has /usr/bin/sqlite3 || return
  cat >"$WORK/table.sql" <<'SQL'
CREATE TABLE t(id INTEGER PRIMARY KEY, a INTEGER, b TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600000)
  INSERT INTO t SELECT i, i * 7919 % 1000003, 'row ' || i || ' of a table in memory, ' || (i * 31 % 977) FROM n;
CREATE INDEX ta ON t(a);
SELECT count(*), sum(a), min(b), max(b) FROM t;
SELECT b FROM t ORDER BY a LIMIT 5;
SELECT a % 10, count(*), max(b) FROM t GROUP BY a % 10 ORDER BY 1;
SQL
  same_as_native 24M "" /usr/bin/sqlite3 :memory: ".read $WORK/table.sql"
  same_as_native 16M "$file" /usr/bin/sqlite3 :memory: ".read $WORK/table.sql"
}

# ---- GNU sort with two threads ------------------------------------------------------------------
try_sort() {
  has /usr/bin/sort || return
  seq 1 800000 | awk '{print ($1 * 7919) % 800011, "line", $1}' >"$WORK/lines"
  same_as_native 32M "" /usr/bin/sort --parallel=2 -S 60M -n "$WORK/lines"
  same_as_native 16M "$file" /usr/bin/sort --parallel=2 -S 60M -n "$WORK/lines"
}

# ---- redis-server: loaded, saved by fork, read back key by key -------------------------------------
redis_port=$((20000 + RANDOM % 20000))
redis() { redis-cli -p "$redis_port" "$@"; }
redis_started() {
  for _ in {1..300}; do
    [[ $(redis ping 2>/dev/null) == PONG ]] && return 0
    sleep 0.1
  done
  fail "redis-server does not answer: $(tail -n 3 "$WORK/redis/log")"
  kill "$server"
  return 1
}
# 1 KiB values, each of which says its key, in words that LZ4 halves.
redis_load() {
  awk -v n="$1" 'BEGIN {
    for (i = 0; i < n; i++) {
      v = "value-of-" i "-"
      while (length(v) < 1000) v = v (i * 7919 + length(v) * 104729) % 999983 "-" i "-"
      printf "*3\r\n$3\r\nSET\r\n$%d\r\nkey%d\r\n$%d\r\n%s\r\n", length("key" i), i, length(v), v
    }
  }'
}
# Key by key against what was loaded.
redis_verify() {
  [[ $(redis dbsize) == "$1" ]] || fail "redis has $(redis dbsize) keys, not $1"
  tr -d '\r' <"$WORK/redis/load" | grep '^value' >"$WORK/redis/wanted"
  seq 0 $(($1 - 1)) | sed 's/^/GET key/' | redis >"$WORK/redis/got"
  cmp -s "$WORK/redis/wanted" "$WORK/redis/got" || fail "redis: values differ"
}
try_redis() {
  has /usr/bin/redis-server && has /usr/bin/redis-cli || return
  local megabytes=${BUOY_REDIS_MB:-200} keys peak
  local budget=$((megabytes / 2))
  keys=$((megabytes * 1024 * 9 / 10))
  mkdir "$WORK/redis"
  redis_load "$keys" >"$WORK/redis/load"
  "$BUOY" run --budget ${budget}M $file --stats "$WORK/redis/stats" -- \
    /usr/bin/redis-server --port "$redis_port" --dir "$WORK/redis" --save "" >"$WORK/redis/log" 2>&1 &
  server=$!
  redis_started || return
  redis --pipe <"$WORK/redis/load" >"$WORK/redis/pipe" 2>&1 || fail "redis: $(tail -n 1 "$WORK/redis/pipe")"
  redis bgsave >/dev/null
  redis_verify "$keys"  # while the child saves
  for _ in {1..1200}; do
    redis info persistence | tr -d '\r' | grep -q '^rdb_bgsave_in_progress:0' && break
    sleep 0.1
  done
  redis info persistence | tr -d '\r' | grep -q '^rdb_last_bgsave_status:ok' || fail "redis bgsave"
  redis shutdown nosave 2>/dev/null
  wait "$server" || fail "redis-server ended otherwise: $(tail -n 3 "$WORK/redis/log")"
  peak=$(stat_of "$WORK/redis/stats" resident_peak_bytes)
  [[ -n $peak && $peak -le $((budget * 1048576)) ]] || fail "redis: resident peak $peak"
  echo "ok: redis-server with $keys keys in ${budget}M: peak $peak, pswpout $(stat_of "$WORK/redis/stats" pswpout)"
  # What the child wrote, read by a server without a budget.
  /usr/bin/redis-server --port "$redis_port" --dir "$WORK/redis" --save "" >"$WORK/redis/log" 2>&1 &
  server=$!
  redis_started || return
  redis_verify "$keys"
  redis shutdown nosave 2>/dev/null
  wait "$server"
}

(($#)) || set -- python sqlite sort redis
for name in "$@"; do "try_$name"; done
finish $#
