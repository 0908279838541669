#!/usr/bin/env bash
# Real programs, natively and under `buoy run` in half of their native peak: one line each says
# whether they printed the same, how long both took and how much was resident. What is not installed
# is skipped, and says so. Not a test: it takes minutes, and what it runs is what the machine has.
#
#   scripts/try_programs.sh [NAME...]          without a name: all of them; --list names them
#
# Environment: BUOY_BUILD (build/release), RUN_OPTIONS (more options of `buoy run`, such as
# "--faults thread"), TRY_TIMEOUT (seconds for a run, 300), LOCK_OPERATIONS (of `locks`), TRY_KEEP=1 (leaves the working folder).
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${BUOY_BUILD:-$here/build/release}
buoy=$build/buoy
[[ -x $buoy && -e $build/libbuoy_preload.so ]] || { echo "not built: $buoy"; exit 77; }
patience=${TRY_TIMEOUT:-300}
smallest_kib=16384
WORK=$(mktemp -d "${TMPDIR:-/tmp}/buoy-try.XXXXXX")
chmod 777 "$WORK"  # processes of another user write statistics there
[[ -n ${TRY_KEEP:-} ]] || trap 'rm -rf "$WORK"' EXIT
export WORK

# ---- programs: `wants` says what must be installed, the rest is a bash script of its own ------------
# Each script prints what must be the same; its folder is fresh and its own.
names=()
declare -A wants script
program() {  # program NAME "COMMANDS THAT IT NEEDS" <<'script'
  names+=("$1")
  wants[$1]=$2
  script[$1]=$(cat)
}

program python /usr/bin/python3 <<'X'
/usr/bin/python3 -c '
import hashlib
table = {i * 7919 % 10000019: "value-%d" % i for i in range(500000)}
digest = hashlib.sha256()
for key in sorted(table): digest.update(table[key].encode())
print(len(table), digest.hexdigest())'
X
for tests in test_io test_socket test_subprocess test_threading; do
  program python_$tests "/usr/bin/python3.11 /usr/lib/python3.11/test/$tests.py" <<X
# A virtual machine's own sockets may hang in a virtual machine.
/usr/bin/python3.11 -m test -v -i '*VSOCK*' $tests >log 2>&1
echo "status \$?"
grep -E '^(ERROR|FAIL|UNEXPECTED SUCCESS): ' log | sort -u
grep -E '^Ran [0-9]+ tests' log | sed 's/ in .*//'
cp log "\$WORK/$tests.\$SIDE.log"
X
done
program node /usr/bin/node <<'X'
/usr/bin/node -e '
const m = new Map();
for (let i = 0; i < 400000; i++) m.set("key" + (i * 7919 % 1000003), {i, text: "value " + i});
let sum = 0; for (const [k, v] of m) sum = (sum * 31 + v.i + k.length) % 1000000007;
const b = Buffer.alloc(32 << 20, "some words of a buffer, ");
console.log(m.size, sum, require("crypto").createHash("sha1").update(b).digest("hex"));'
X
program java "java javac" <<'X'
cat >T.java <<'J'
import java.util.*;
public class T { public static void main(String[] a) throws Exception {
  HashMap<Integer, String> m = new HashMap<>();
  Thread[] t = new Thread[4]; long[] s = new long[4];
  for (int i = 0; i < 600000; i++) m.put(i * 7919 % 1000003, "value " + i);
  for (int k = 0; k < 4; k++) { final int n = k; t[k] = new Thread(() -> {
    for (String v : m.values()) s[n] += v.hashCode() * (long) (n + 1); }); t[k].start(); }
  for (Thread x : t) x.join();
  System.out.println(m.size() + " " + Arrays.toString(s)); } }
J
javac T.java && java -Xmx256m T
X
program go "go gcc" <<'X'
export HOME=$PWD GOFLAGS=-mod=mod GO111MODULE=off
cat >t.go <<'G'
package main
// #include <stdlib.h>
// #include <string.h>
// static long fill(long n) { char *p = malloc(n); memset(p, 7, n); long s = 0;
//   for (long i = 0; i < n; i += 64) s += p[i]; free(p); return s; }
import "C"
import ("fmt"; "os"; "strings")
func main() {
  m := map[string]int{}
  for i := 0; i < 400000; i++ { m[fmt.Sprint("key", i*7919%1000003)] = i }
  c := make(chan int)
  for k := 0; k < 4; k++ { go func(k int) { s := 0; for _, v := range m { s += v % (k + 2) }; c <- s }(k) }
  s := 0
  for k := 0; k < 4; k++ { s += <-c }
  os.WriteFile("big", []byte(strings.Repeat("words ", 5000000)), 0600)
  b, _ := os.ReadFile("big")
  fmt.Println(len(m), s, len(b), C.fill(20000000))
}
G
go build -o t t.go && ./t
X
program ruby ruby <<'X'
ruby -e 'h = {}; 400000.times { |i| h["key#{i * 7919 % 1000003}"] = "value #{i}" }
s = 0; h.each { |k, v| s = (s * 31 + k.hash.class.name.size + v.size) % 1000000007 }; puts h.size, s
puts `echo spawned`; puts Process.wait2(fork { exit 3 })[1].exitstatus'
X
program perl perl <<'X'
PERL_HASH_SEED=0 PERL_PERTURB_KEYS=0 perl -e '$h{"key".($_*7919%1000003)} = "value $_" for 1..150000; my $s = 0;
$s = ($s * 31 + length($h{$_})) % 1000000007 for keys %h; print scalar(keys %h), " $s\n"; print `echo spawned`;'
X
program php php <<'X'
php -d memory_limit=-1 -r '$h = []; for ($i = 0; $i < 300000; $i++) $h["key".($i*7919%1000003)] = "value $i";
ksort($h); echo count($h), " ", sha1(implode(",", $h)), "\n";'
X
program R Rscript <<'X'
Rscript -e 'set.seed(1); m <- matrix(runif(1e6), 1000); x <- crossprod(m); cat(dim(x), format(sum(x), digits = 12), "\n")
d <- data.frame(a = sample(1e5, 8e5, TRUE), b = runif(8e5)); r <- aggregate(b ~ a, d[1:200000, ], sum); cat(nrow(r), format(sum(r$b), digits = 12), "\n")'
X
program ffmpeg ffmpeg <<'X'
ffmpeg -v error -f lavfi -i testsrc2=s=1280x720:d=4 -threads 2 -c:v mpeg2video -f mpegts -bitexact out.ts </dev/null
ffmpeg -v error -i out.ts -threads 2 -vf scale=640:360 -f md5 - </dev/null
X
program imagemagick convert <<'X'
convert -size 2500x2000 plasma:red-blue -seed 1 +noise Poisson a.ppm 2>/dev/null || convert -size 2500x2000 gradient:red-blue a.ppm
convert -size 2500x2000 gradient:red-blue -rotate 31 -blur 0x3 -resize 60% rgb:- | sha1sum
X
program git git <<'X'
export HOME=$PWD
git clone -q --no-hardlinks --bare "$REPOSITORY" copy && cd copy && git -c pack.threads=2 gc -q --aggressive --prune=now 2>&1
git fsck --full 2>&1 | grep -v '^dangling' | head -n 5; git count-objects -v | grep -E '^(count|in-pack)'; git rev-parse HEAD
X
program xz xz <<'X'
input | head -c 60000000 >in
xz -9e -T2 -k in && xz -dc in.xz | cmp - in && sha1sum <in.xz
X
program tar_zstd "tar zstd" <<'X'
tar -C /usr/include -cf - . | zstd -q -12 -T2 | tee a.zst | zstd -dc | tar -tf - | sha1sum; sha1sum <a.zst
X
program g++ g++ <<'X'
cat >t.cc <<'C'
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <regex>
#include <string>
int main() { std::map<std::string, int> m; std::regex r("a.*b"); for (int i = 0; i < 9; ++i) m[std::to_string(i)] = i;
  std::cout << m.size() << std::regex_match("axb", r) << "\n"; }
C
g++ -O2 -std=c++20 -c t.cc -o t.o && g++ t.o -o t && ./t && sha1sum <t.o
X
program sqlite sqlite3 <<'X'
sqlite3 t.db 'PRAGMA cache_size = -200000; CREATE TABLE t(a INTEGER, b TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600000)
INSERT INTO t SELECT i * 7919 % 1000003, i || " is a row of the table" FROM n; CREATE INDEX ta ON t(a); CREATE INDEX tb ON t(b);
SELECT count(*), sum(a), min(b), max(b) FROM t; SELECT b FROM t ORDER BY a LIMIT 3; PRAGMA integrity_check;'
X
program sort sort <<'X'
seq 1 500000 | awk '{print ($1 * 7919) % 500009, "line", $1}' >in
LC_ALL=C sort --parallel=2 -S 60M -n in | sha1sum
X
program redis "redis-server redis-cli redis-benchmark" <<'X'
redis-server --port 0 --unixsocket "$PWD/s" --dir "$PWD" --save "" --logfile log --enable-debug-command yes &
r() { redis-cli -s "$PWD/s" "$@"; }
until [[ $(r ping 2>&1) == PONG ]]; do sleep 0.1; done
redis-benchmark -s "$PWD/s" -q -P 16 -c 8 -d 400 -r 100000 -n 150000 -t set,get,lpush >/dev/null
r debug populate 60000 key 500
r dbsize >before; r debug digest >>before
r bgsave; until r info persistence | grep -q bgsave_in_progress:0; do sleep 0.1; done
r info persistence | tr -d '\r' | grep rdb_last_bgsave_status
r debug reload; { r dbsize; r debug digest; } >after; cmp before after && echo same after reload
r shutdown nosave 2>/dev/null; wait; echo "ended $?"
X
program memcached "memcached python3" <<'X'
chmod 777 .
memcached -u nobody -m 200 -t 4 -s "$PWD/s" -a 0777 &
until [[ -S s ]]; do sleep 0.1; done
/usr/bin/python3 - <<'P'
import socket, threading
def work(t, wrong):
    s = socket.socket(socket.AF_UNIX); s.connect("s"); f = s.makefile("rb")
    value = lambda i: (b"%d-%d " % (t, i)) * (50 + i % 50)
    for i in range(20000):
        v = value(i); s.sendall(b"set k%d-%d 0 0 %d\r\n%s\r\n" % (t, i, len(v), v)); assert f.readline() == b"STORED\r\n"
    for i in range(0, 20000, 3):
        s.sendall(b"get k%d-%d\r\n" % (t, i)); head = f.readline()
        if head == b"END\r\n": wrong.append("missing"); continue
        v = f.read(int(head.split()[3]) + 2)[:-2]; f.readline()
        if v != value(i): wrong.append(i)
wrong = []; threads = [threading.Thread(target=work, args=(t, wrong)) for t in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print("wrong", wrong[:5])
P
kill %1; wait; echo ended
X
program nginx "nginx wrk ab curl" <<'X'
mkdir -p logs www && chmod 777 . logs www && input | head -c 300000 >www/big && echo small >www/small
port=$((20000 + RANDOM % 20000))
cat >conf <<C
daemon off; worker_processes 2; pid $PWD/pid; error_log $PWD/logs/error;
events { worker_connections 256; }
http { access_log $PWD/logs/access combined buffer=32k; client_body_temp_path $PWD/b; proxy_temp_path $PWD/p; fastcgi_temp_path $PWD/f;
 uwsgi_temp_path $PWD/u; scgi_temp_path $PWD/s; gzip on; gzip_types *; server { listen 127.0.0.1:$port; root $PWD/www; } }
C
nginx -e logs/error -c "$PWD/conf" -p "$PWD" &
for _ in {1..100}; do curl -sf -o /dev/null http://127.0.0.1:$port/small && break; sleep 0.1; done
ab -q -n 4000 -c 16 http://127.0.0.1:$port/big 2>&1 | grep -E '^(Complete|Failed) requests'
ab -q -n 400 -c 16 -k -H 'Accept-Encoding: gzip' http://127.0.0.1:$port/big 2>&1 | grep -E '^(Complete|Failed) requests'
wrk -t 2 -c 32 -d 3 http://127.0.0.1:$port/small | grep -E 'Socket errors|Non-2xx' ; echo wrk done
curl -s http://127.0.0.1:$port/big | cmp - www/big && curl -s --compressed http://127.0.0.1:$port/big | cmp - www/big && echo bytes right
kill -QUIT $(cat pid); wait; echo "ended $?"; grep -cE 'alert|emerg|crit' logs/error
X
program postgres "/usr/lib/postgresql/15/bin/initdb /usr/lib/postgresql/15/bin/pgbench runuser" <<'X'
chmod 777 .
cat >steps <<'S'
cd "$1"; b=/usr/lib/postgresql/15/bin
$b/initdb -D data --locale=C -E UTF8 >initdb.log 2>&1; echo "initdb $?"
$b/pg_ctl -D data -w -l log -o "-c listen_addresses='' -k $PWD -c shared_buffers=32MB -c dynamic_shared_memory_type=posix" start >/dev/null; echo "start $?"
$b/pgbench -h "$PWD" -i -s 4 -q postgres >/dev/null 2>&1; echo "load $?"
$b/pgbench -h "$PWD" -c 4 -j 2 -t 400 postgres 2>&1 | grep -E 'actually processed|failed'
psql -h "$PWD" -At postgres -c 'select count(*), sum(hashtext(aid::text || bid)) from pgbench_accounts; select sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts; set work_mem = "64MB"; select md5(string_agg(aid::text, $$,$$ order by md5(aid::text))) from pgbench_accounts'
$b/pg_ctl -D data -w -m fast stop >/dev/null; echo "stop $?"
grep -cE 'PANIC|terminated by signal' log
S
if [[ $EUID == 0 ]]; then runuser -u nobody -- bash steps "$PWD"; else bash steps "$PWD"; fi
X
program gdb "gdb gcc" <<'X'
echo '#include <stdio.h>
#include <stdlib.h>
int f(char *p) { return p[70000]; } int main(void) { char *p = calloc(1, 100000); p[70000] = 42; printf("%d\n", f(p)); }' >t.c
gcc -g t.c -o t && gdb -q -batch -ex 'handle SIGBUS nostop noprint pass' -ex 'break f' -ex run -ex 'print p[70000]' -ex 'backtrace 1' -ex continue ./t 2>&1 | grep -E '^(\$1|42|.*Inferior 1)' | sed 's,(process.*) ,,'
X
program strace strace <<'X'
strace -f -e trace=execve -o log /usr/bin/python3 -c 'import subprocess; print(subprocess.run(["echo", "x" * 70000], capture_output=True).stdout.decode()[:9])'
echo "status $?"; grep -c execve log
X
program mutexes g++ <<'X'
cat >t.cc <<'C'
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>
struct Shard { std::mutex m; long n = 0; char rest[4000]; };
int main() { std::vector<Shard> s(16000); std::mutex g; std::condition_variable c; long turns = 0; std::vector<std::thread> t;
  for (int k = 0; k < 8; ++k) t.emplace_back([&, k] { unsigned long x = k + 1;
    for (int i = 0; i < 400000; ++i) { x = x * 6364136223846793005ul + 1442695040888963407ul; Shard& a = s[(x >> 33) % s.size()]; std::lock_guard l(a.m); ++a.n;
      if (i % 100 == 0) { std::unique_lock w(g); ++turns; c.notify_one(); if (turns % 50 == 0) c.wait_for(w, std::chrono::microseconds(50)); } } });
  for (auto& x : t) x.join();
  long n = 0; for (auto& a : s) n += a.n; std::printf("%ld %ld\n", n, turns); }
C
g++ -O2 -std=c++20 -pthread t.cc -o t && ./t
X

# Locks of every kind, all of whose pages leave ten times a second. The acceptance run: LOCK_OPERATIONS=100000000.
program locks "$build/tests/programs/gate_mutexes" <<X
$build/tests/programs/gate_mutexes ${LOCK_OPERATIONS:-4000000} 1 100
X

# ---- running them ----------------------------------------------------------------------------------
cat >"$WORK/measure.py" <<'P'
# measure.py SECONDS OUT ERR COMMAND...: prints status, seconds, the largest process's peak in KiB.
import os, resource, signal, subprocess, sys, time
patience, out, err, command = float(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
start = time.monotonic()
child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=open(out, "w"), stderr=open(err, "w"), start_new_session=True)
try: status = child.wait(patience)
except subprocess.TimeoutExpired: status = "timeout"
try: os.killpg(child.pid, signal.SIGKILL)
except ProcessLookupError: pass
if status == "timeout": child.wait()
print(status, "%.1f" % (time.monotonic() - start), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
P
# Words and numbers without an end, the same each time.
cat >"$WORK/functions" <<'F'
input() { awk 'BEGIN { for (i = 0; ; i++) print (i * 7919) % 1000003, "some words of line", (i * 104729) % 99991 }' 2>/dev/null; }
F
export BASH_ENV=$WORK/functions REPOSITORY=$here

# measured SIDE SCRIPT [WORDS IN FRONT...]
measured() {
  local side=$1 text=$2 folder=$WORK/$1
  shift 2
  rm -rf "$folder"
  mkdir "$folder"
  (cd "$folder" && SIDE=$side /usr/bin/python3 "$WORK/measure.py" "$patience" "$WORK/$side.out" "$WORK/$side.err" \
    "$@" bash "$text")
}
peak_of_stats() {
  { echo 0; cat "$WORK"/stats* 2>/dev/null | sed -n 's/.*"resident_peak_bytes":\([0-9]*\).*/\1/p'; } | sort -n | tail -n 1
}

bad=0
try() {
  local name=$1 need missing="" native run budget verdict file
  for need in ${wants[$name]}; do
    command -v "$need" >/dev/null || [[ -e $need ]] || missing+=" $need"
  done
  [[ -z $missing ]] || { printf '%-16s SKIPPED: not installed:%s\n' "$name" "$missing"; return; }
  printf '%s\n' "${script[$name]}" >"$WORK/$name.sh"
  read -r -a native < <(measured native "$WORK/$name.sh")
  budget=$((native[2] / 2 > smallest_kib ? native[2] / 2 : smallest_kib))
  # What does not fit compressed needs a file; with one, less is kept compressed, and disks are slow.
  for file in none auto; do
    rm -f "$WORK"/stats*
    # shellcheck disable=SC2086
    read -r -a run < <(measured run "$WORK/$name.sh" "$buoy" run --budget ${budget}K --backing-file $file \
      --stats "$WORK/stats" ${RUN_OPTIONS:-} --)
    [[ ${run[0]} == "${native[0]}" ]] && cmp -s "$WORK/native.out" "$WORK/run.out" && break
  done
  if [[ ${native[0]} == timeout ]]; then
    verdict="NOT SETTLED: natively it does not end"  # two that hang are not alike
  elif [[ ${run[0]} != "${native[0]}" ]]; then
    verdict="DIFFERS: status ${run[0]}, natively ${native[0]}"
  elif ! cmp -s "$WORK/native.out" "$WORK/run.out"; then
    verdict="DIFFERS: output"
  else
    verdict=ok
  fi
  [[ $file == none ]] || verdict+=", with a backing file"
  printf '%-16s native %6.1f s, %5d MiB; in %4d MiB: %6.1f s, peak %4d MiB: %s\n' "$name" "${native[1]}" \
    $((native[2] / 1024)) $((budget / 1024)) "${run[1]}" $(($(peak_of_stats) / 1048576)) "$verdict"
  [[ $verdict == ok* ]] && return
  bad=$((bad + 1))
  diff <(head -c 100000 "$WORK/native.out") <(head -c 100000 "$WORK/run.out") | head -n 8 | cut -c 1-160 | sed 's/^/    /'
  tail -n 4 "$WORK/run.err" | cut -c 1-200 | sed 's/^/    stderr: /'
}

if [[ ${1:-} == --list ]]; then
  echo "${names[@]}"
  exit 0
fi
(($#)) || set -- "${names[@]}"
for name in "$@"; do
  [[ -n ${script[$name]:-} ]] || { echo "no program $name: ${names[*]}"; exit 2; }
  try "$name"
done
((bad == 0)) || { echo "$bad differ"; exit 1; }
