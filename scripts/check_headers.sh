#!/usr/bin/env bash
# Each header of include/ and src/ compiles alone; include/buoy/buoy.h also as C.
set -euo pipefail
cd "$(dirname "$0")/.."

check_one() {
  local header=$1 path=${1#src/}
  path=${path#include/}
  echo "#include \"$path\"" |
    g++ -std=c++20 -D_GNU_SOURCE -Wall -Wextra -Werror -Iinclude -Isrc -fsyntax-only -x c++ - ||
    { echo "$header: does not compile alone" >&2; return 1; }
  if [[ $header == include/* && $header == *.h ]]; then
    echo "#include \"$path\"" |
      gcc -std=c11 -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only -x c - ||
      { echo "$header: does not compile alone as C" >&2; return 1; }
  fi
}
export -f check_one

dirs=()
for dir in include src; do [[ -d $dir ]] && dirs+=("$dir"); done
count=$(find "${dirs[@]}" -name '*.h' -o -name '*.hpp' | wc -l)
find "${dirs[@]}" \( -name '*.h' -o -name '*.hpp' \) -print0 |
  xargs -0 -r -n1 -P"$(nproc)" bash -c 'check_one "$1"' _ || { echo "headers: failed" >&2; exit 1; }
echo "headers: $count compile alone"
