#!/usr/bin/env bash
# The Python module out of the source tree (tests/python), and the examples in Python.
# ctest: timeout=300
source "$(dirname "$0")/run_common.bash"
SOURCE_DIR=${SOURCE_DIR:-$(cd "$(dirname "$0")/.." && pwd)}
export SOURCE_DIR BUOY

python=""
for candidate in /usr/bin/python3 "$(type -P python3)"; do
  [[ -x $candidate ]] && "$candidate" -c 'import ctypes, sys; sys.exit(sys.version_info < (3, 8))' &&
    { python=$candidate; break; }
done
[[ -n $python ]] || {
  echo "no python3 of 3.8 or later with ctypes: the Python module is NOT tested: skipped"
  exit 77
}
# Where the programs that run without rights may read: the tree may lie in a home folder.
chmod 755 "$WORK"
cp -r "$SOURCE_DIR/python/buoy" "$SOURCE_DIR/tests/python/test_buoy.py" "$WORK/"
cp "$BUILD_DIR/libbuoy.so.0" "$WORK/"
chmod -R a+rX "$WORK"
export PYTHONPATH=$WORK BUOY_LIBRARY=$WORK/libbuoy.so.0 PYTHONDONTWRITEBYTECODE=1

(cd "$WORK" && timeout -k 5 250 "$python" -X dev -m unittest test_buoy) || fail "tests/python/test_buoy.py"

# As somebody in the source tree has it: nothing is named.
found=$(env -u BUOY_LIBRARY PYTHONPATH="$SOURCE_DIR/python" "$python" -c '
import buoy
with buoy.Pool(32 << 20) as pool: print(pool.budget)
print(next(line.split()[-1] for line in open("/proc/self/maps") if "libbuoy" in line))')
if [[ $BUILD_DIR == "$SOURCE_DIR/build/release" ]]; then
  [[ $found == 33554432$'\n'"$(realpath "$BUILD_DIR/libbuoy.so.0")" ]] || fail "in the source tree: $found"
fi

if "$python" -c 'import numpy' 2>/dev/null; then
  for example in "$SOURCE_DIR"/examples/python/*.py; do
    timeout -k 5 60 "$python" "$example" >"$WORK/out" || fail "$(basename "$example"): $(tail -n 2 "$WORK/out")"
    cat "$WORK/out"
  done
else
  skip "$python has no numpy: the examples are NOT run"
fi
finish
