#!/usr/bin/env bash
# The command line of buoy-bench: every wrong word ends with status 2 and one clear line, and the map
# is one self-contained page.
# ctest: timeout=120
source "$(dirname "$0")/run_common.bash"
BENCH=$BUILD_DIR/buoy-bench
[[ -x $BENCH ]] || { echo "no buoy-bench in $BUILD_DIR"; exit 77; }

refused() { refused_by "$BENCH" 2 "$@"; }

refused "no benchmark"
refused "unknown benchmark" frobnicate
refused "unknown option" fragmentation --bogus
refused "one benchmark at a time" fragmentation swap
refused "needs a value" fragmentation --case
refused "needs a file" fragmentation --map
refused "needs a file" fragmentation --map ""
refused "draws no map" swap --map "$WORK/map.html"
[[ ! -e $WORK/map.html ]] || fail "a refused --map left a file"
refused "No such file" fragmentation --map "$WORK/none/map.html"
refused "directory" fragmentation --map "$WORK"
refused "No space left" fragmentation --json --map /dev/full

# The map alone: no case has such a name.
echo "what was there before" >"$WORK/map.html"
timeout 100 "$BENCH" fragmentation --quick --json --case "no such case" --map "$WORK/map.html" \
  >"$WORK/out" 2>"$WORK/err" || fail "--map: $(cat "$WORK/err")"
[[ ! -s $WORK/out && ! -s $WORK/err ]] || fail "--map: $(cat "$WORK/out" "$WORK/err")"
[[ $(head -c 15 "$WORK/map.html") == "<!doctype html>" ]] || fail "the map is no page of HTML"
grep -q "what was there before" "$WORK/map.html" && fail "the map was appended"
tail -n 1 "$WORK/map.html" | grep -q "</html>" || fail "the map is cut off"
grep -qiE "(src|href)=|url\(|@import|https?:" "$WORK/map.html" && fail "the map loads something"
for word in Before After "compressed pool" "driver buffers" "contiguous memory" "balloon" "reserve" \
  "cached" "lost in half-empty blocks"; do
  grep -q "$word" "$WORK/map.html" || fail "the map does not tell of: $word"
done

# What it prints becomes a table: of the benchmark it is of, and no other.
TABLES=$(cd "$(dirname "$0")/.." && pwd)/scripts/performance_tables.py
printf '# Tables\n\n## one\n\nold\n\n## two\n\nkept\n' >"$WORK/tables.md"
printf '%s\n' '{"bench":"one","case":"a","buoy":1234.5,"peer":2,"peer_name":"p","unit":"us","ratio":1.25}' |
  python3 "$TABLES" --file "$WORK/tables.md" || fail "performance_tables.py"
grep -qF '| a | 1,230 | 2 | us | 1.25 | p |' "$WORK/tables.md" || fail "no row: $(cat "$WORK/tables.md")"
grep -q old "$WORK/tables.md" && fail "the old table is still there"
grep -q kept "$WORK/tables.md" || fail "another benchmark's table is gone"
echo "no JSON" | python3 "$TABLES" --file "$WORK/tables.md" 2>"$WORK/err" && fail "took what is no JSON"
grep -q "line 1 is not from" "$WORK/err" || fail "unclear: $(cat "$WORK/err")"
grep -qF '| a | 1,230 |' "$WORK/tables.md" || fail "a refused input changed the file"
finish
