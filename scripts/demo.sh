#!/usr/bin/env bash
# What Buoy does, shown: real programs in half the memory they want. Called by `./dev demo`, which
# has built everything; BUILD_DIR is the build's folder.
set -euo pipefail
build=${BUILD_DIR:-build/release}
echo "== What this machine allows (buoy info)"
"$build/buoy" info
echo
exec python3 "$(dirname "$0")/demo.py" "$build/buoy"
