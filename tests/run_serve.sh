#!/usr/bin/env bash
# `buoy serve`: what it answers, to whom, and what it refuses; and its page in a browser.
# ctest: timeout=600 serial labels=no_sanitizer
# Other runs of root's would be in the picture: this one sees none but its own.
if [[ -z ${BUOY_TEST_ALONE:-} && $(id -u) == 0 ]] && unshare -m true 2>/dev/null; then
  export BUOY_TEST_ALONE=1
  exec unshare -m bash -c 'mount -t tmpfs none /run && exec bash "$0"' "$0"
fi
source "$(dirname "$0")/run_common.bash"
command -v curl >/dev/null || {
  echo "SKIPPED: no curl (apt-get install curl)"
  exit 77
}
export XDG_RUNTIME_DIR=$WORK/runtime
mkdir -m 700 "$XDG_RUNTIME_DIR"
processes=()
trap '((${#processes[@]} == 0)) || kill -KILL "${processes[@]}" 2>/dev/null; rm -rf "$WORK"' EXIT

# start BUDGET PROGRAM [ARG...]: $run is its supervisor, $process the program, once it can be seen.
start() {
  "$BUOY" run --budget "$1" -- "${@:2}" >"$WORK/out" 2>&1 &
  run=$!
  processes+=("$run")
  until_true eval 'process=$("$BUOY" ps | awk "\$2 == $run {print \$1; exit}"); [[ -n $process ]]' ||
    fail "the run of $2 cannot be seen: $("$BUOY" ps 2>&1)"
}
# serve OPTION...: $server is it, $url where.
serve() {
  rm -f "$WORK/serve.err"  # of the one before, which says its own address
  "$BUOY" serve --listen 127.0.0.1:0 --interval 0.2 "$@" 2>"$WORK/serve.err" &
  server=$!
  processes+=("$server")
  until_true grep -q serving "$WORK/serve.err" || fail "serve $*: $(cat "$WORK/serve.err")"
  url=$(sed -n 's/^buoy: serving \(http:[^ ,]*\).*/\1/p' "$WORK/serve.err")
}
stop_server() {
  kill -TERM "$server"
  wait "$server"
  local status=$?
  [[ $status == 0 ]] || fail "ended by SIGTERM with $status"
}
get() { curl -s --max-time 20 "$@"; }
status_of() { curl -s --max-time 20 -o "$WORK/body" -w '%{http_code}' "$@"; }

# ---- Words ----------------------------------------------------------------------------------------
refused_by "$BUOY" 2 "ADDRESS:PORT is wanted" serve --listen 8080
refused_by "$BUOY" 2 "ADDRESS:PORT is wanted" serve --listen example.org:80
refused_by "$BUOY" 2 "reached from elsewhere.*token" serve --listen 0.0.0.0:0
refused_by "$BUOY" 2 "reached from elsewhere.*token" serve --listen '[::]:0'
refused_by "$BUOY" 2 "16 characters" serve --token short
refused_by "$BUOY" 2 "cannot read" serve --token-file "$WORK/none"
refused_by "$BUOY" 2 "excludes" serve --token 0123456789abcdef --token-file "$WORK/none"
"$BUOY" serve --help | grep -q "^Example: buoy serve" || fail "no example in its help"

# ---- Looking --------------------------------------------------------------------------------------
cat >"$WORK/churn.py" <<'PY'
import time
data = bytearray(60 << 20)
for i in range(0, len(data), 64): data[i] = i * 7 & 255
while True:
    for i in range(0, len(data), 4096): data[i] = data[i] + 1 & 255
    time.sleep(0.01)
PY
start 24M python3 "$WORK/churn.py"
serve
refused_by "$BUOY" 2 "Address already in use" serve --listen "${url:7:-1}"
until_true eval 'get "$url"api/history | check "len(d[\"samples\"]) > 3"' || fail "no history: $(get "$url"api/history)"
# The program alone: what started it (a shell, a wrapper) may have been there for a moment.
is_whole() {
  get "${url}api/history" >"$WORK/history"
  check "[p['pid'] for r in d['samples'][-1]['runs'] for p in r['processes']] == [$process] and not d['may_change']
    and all(len(r['v']) == len(d['names']) for s in d['samples'] for r in s['runs'] if 'v' in r)
    and all(b['at'] > a['at'] for a, b in zip(d['samples'], d['samples'][1:]))" <"$WORK/history"
}
until_true is_whole || fail "history: $(head -c 600 "$WORK/history")"
until_true eval 'get "$url"api/history | check "dict(zip(d[\"names\"], d[\"samples\"][-1][\"runs\"][0][\"v\"]))[\"faults\"] > 10"' ||
  fail "no faults in it: $(get "$url"api/history | tail -c 600)"
next=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["next"])' <"$WORK/history")
get "${url}api/history?from=$next" | check "d['first'] >= $next and len(d['samples']) < 50" || fail "history from $next"
until_true eval 'get "$url"api/picture?pid=$process >"$WORK/picture"; check "sum(c[6] for c in d[\"cells\"]) > 1000" <"$WORK/picture"' ||
  fail "picture: $(head -c 600 "$WORK/picture")"
# 60 MiB were stored to in a heap of 24: all of it is somewhere, and what is resident fits.
check 'sum(sum(c[3:8]) for c in d["cells"]) * 4096 >= 60 << 20 and sum(c[3] + c[4] + c[5] for c in d["cells"]) * 4096 <= 25 << 20
  and d["cells_left_out"] == 0 and sum(c[8] for c in d["cells"]) > 100
  and all(c[0] % (2 << 20) == 0 and sum(c[3:8]) <= 512 * c[1] for c in d["cells"])
  and any(a[0] == 1 and a[2] > 0 for a in d["arena"])' <"$WORK/picture" || fail "picture: $(head -c 900 "$WORK/picture")"
get "${url}metrics" >"$WORK/metrics"
"$BUOY" stat "$run" --prometheus >"$WORK/stat"
[[ $(grep -c '^# TYPE' "$WORK/metrics") == $(grep -c '^# TYPE' "$WORK/stat") ]] &&
  grep -q "^buoy_budget_bytes{run=\"$run\",pid=\"$process\",command=\".*churn.py\"} 25165824$" "$WORK/metrics" ||
  fail "metrics: $(head -n 3 "$WORK/metrics")"
python3 - "$WORK/metrics" <<'PY' || fail "the histogram of fault times: $(grep fault_seconds "$WORK/metrics")"
import re, sys
text = open(sys.argv[1]).read()
buckets = [(float(le), int(n)) for le, n in re.findall(r'buoy_fault_seconds_bucket\{.*le="(.*)"\} (\d+)', text)]
count = int(re.search(r"buoy_fault_seconds_count\{.*\} (\d+)", text)[1])
total = float(re.search(r"buoy_fault_seconds_sum\{.*\} ([\d.]+)", text)[1])
assert len(buckets) == 16 and buckets == sorted(buckets) and [n for _, n in buckets] == sorted(n for _, n in buckets)
assert buckets[-1] == (float("inf"), count) and count > 100 and 1e-7 < total / count < 0.1
PY

# The page: whole, and nothing from elsewhere.
[[ $(status_of "$url") == 200 ]] || fail "no page"
! grep -Eo '(src|href)="[^"]*"|url\([^)]*\)|@import' "$WORK/body" | grep -v '"data:,"' || fail "the page wants something from elsewhere"
get -D - -o /dev/null "$url" | grep -qi "^content-security-policy: default-src 'none'" || fail "no policy for the page"

# ---- Refusals -------------------------------------------------------------------------------------
for path in "" api/history metrics "api/picture?pid=$process"; do
  [[ $(status_of -H 'Host: evil.example' "$url$path") == 421 ]] || fail "a name that is not ours, at /$path: $(cat "$WORK/body")"
done
[[ $(status_of -H "Host: localhost:1" "${url}metrics") == 200 ]] || fail "localhost"
[[ $(status_of "${url}api/budget" -d '{"pid":'"$process"',"bytes":33554432}') == 403 ]] && grep -q "token-file" "$WORK/body" ||
  fail "a budget without a token: $(cat "$WORK/body")"
[[ $(status_of "${url}nothing") == 404 ]] && grep -q '"error"' "$WORK/body" || fail "nothing: $(cat "$WORK/body")"
[[ $(status_of "${url}api/history?from=x") == 400 ]] || fail "from=x"
for pid in 0 x -1 99999999999 "$run"; do
  [[ $(status_of "${url}api/picture?pid=$pid") == 400 ]] || fail "pid=$pid: $(cat "$WORK/body")"
done
[[ $(status_of "${url}api/picture?pid=$$") == 502 ]] && grep -q "in no run" "$WORK/body" || fail "another's process: $(cat "$WORK/body")"
[[ $(status_of "${url}api/budget" --data-binary @<(head -c 100000 /dev/zero)) == 413 ]] || fail "too large a request"

# Clients that connect and say nothing, more than there are threads: others are answered all the same.
python3 - "$url" <<'PY' || fail "clients that say nothing keep others from being answered"
import socket, sys, time, urllib.request
host, port = sys.argv[1][7:-1].split(":")
silent = []
for _ in range(40):
    s = socket.create_connection((host, int(port)), 5)
    s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
    silent.append(s)
assert urllib.request.urlopen(sys.argv[1] + "metrics", timeout=60).status == 200
PY
# Noise.
python3 - "$url" <<'PY' || fail "noise"
import random, socket, sys, urllib.request
host, port = sys.argv[1][7:-1].split(":")
random.seed(7)
for i in range(200):
    try:
        with socket.create_connection((host, int(port)), 5) as s:
            s.settimeout(0.05)
            s.sendall(random.choice([b"", b"GET ", b"POST /api/budget HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                                     b"GET /api/picture?pid=%00 HTTP/1.1\r\nHost: localhost\r\n\r\n"]) +
                      random.randbytes(random.randrange(300)))
            s.recv(1000)
    except OSError:
        pass
assert urllib.request.urlopen(sys.argv[1] + "metrics", timeout=60).status == 200
PY
[[ -d /proc/$process ]] || fail "the program is gone"

# ---- In a browser ---------------------------------------------------------------------------------
if command -v chromium >/dev/null; then
  browse() { # SIZE OUT
    timeout 100 chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$WORK/chromium" \
      --window-size="$1" --virtual-time-budget=6000 "${@:3}" "$url" >"$2" 2>"$WORK/chromium.err"
  }
  browse 1280,900 "$WORK/dom" --dump-dom
  python3 - "$WORK/dom" "$process" <<'PY' || fail "the page in a browser: $(head -c 1500 "$WORK/dom"; tail -n 3 "$WORK/chromium.err")"
import re, sys
dom = open(sys.argv[1]).read()
assert re.search(r'id="summary"[^>]*>1 run, 1 process: resident [\d.]+ MiB of 24.0 MiB<', dom), "summary"
assert 'id="state" class="bad" role="status"></span>' in dom, "an error is shown"
assert f"<td>{sys.argv[2]}</td>" in dom, "no row"
assert dom.count("<svg") == 4 and dom.count("<path") >= 12 and " MiB</text>" in dom and "now</text>" in dom, "plots"
assert dom.count("linear-gradient(to top") > 10, "cells"
assert re.search(r'id="regions"><tr><td>0x', dom), "regions"
PY
  for size in 1280,2000 390,2600; do
    browse $size /dev/null --screenshot="$WORK/page.png"
    [[ $(head -c 4 "$WORK/page.png" | tail -c 3) == PNG && $(stat -c %s "$WORK/page.png") -gt 20000 ]] ||
      fail "no picture of the page at $size: $(tail -n 3 "$WORK/chromium.err")"
  done
else
  skip "no chromium: the page is not tried in a browser (apt-get install chromium)"
fi
stop_server
[[ -d /proc/$process ]] || fail "the program ended with the server"

# ---- With a token ---------------------------------------------------------------------------------
echo 0123456789abcdef-secret >"$WORK/token"
serve --token-file "$WORK/token" --name box.lan
with=(-H "Authorization: Bearer 0123456789abcdef-secret")
[[ $(status_of "$url") == 200 ]] || fail "the page asks for the token, and so is given without"
for path in api/history metrics "api/picture?pid=$process"; do
  [[ $(status_of "$url$path") == 401 ]] || fail "/$path without a token: $(cat "$WORK/body")"
  [[ $(status_of -H 'Authorization: Bearer 0123456789abcdef-secreT' "$url$path") == 401 ]] || fail "/$path with a wrong token"
done
[[ $(status_of "${with[@]}" "${url}metrics") == 200 ]] || fail "metrics with the token"
[[ $(status_of "${with[@]}" -H 'Host: box.lan:9' "${url}metrics") == 200 ]] || fail "--name"
[[ $(status_of "${url}api/budget" -d '{"pid":'"$process"',"bytes":33554432}') == 401 ]] || fail "a budget without the token"
[[ $(status_of "${with[@]}" "${url}api/budget" -d '{"pid":'"$process"',"bytes":1}') == 400 ]] && grep -q "from 16M" "$WORK/body" ||
  fail "too small a budget: $(cat "$WORK/body")"
[[ $(status_of "${with[@]}" "${url}api/budget" -d nonsense) == 400 ]] || fail "nonsense"
"$BUOY" stat "$process" --json | grep -q '"budget_bytes":25165824' || fail "the budget was changed"
[[ $(status_of "${with[@]}" "${url}api/budget" -d '{"pid":'"$process"',"bytes":33554432}') == 200 ]] || fail "a budget with the token: $(cat "$WORK/body")"
"$BUOY" stat "$process" --json | grep -q '"budget_bytes":33554432' || fail "the budget was not changed"
stop_server

# The run ends: it leaves the picture, and the server goes on.
serve
kill -TERM "$run"
wait "$run"
until_true eval 'get "$url"api/history | check "d[\"samples\"] and d[\"samples\"][-1][\"runs\"] == []"' || fail "a run that ended"
[[ $(status_of "${url}metrics") == 200 ]] || fail "metrics of nothing"
kill -INT "$server"
wait "$server" || fail "SIGINT: status $?"
finish
