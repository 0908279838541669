#!/usr/bin/env bash
# A system call keeps the vector registers, and so does the gate's entry: what it runs before it has saved them
# (handlers.cc, quick.cc and all that they call) has no instruction that uses them. Looked at in the library as it is.
# ctest: labels=no_sanitizer timeout=120
set -u
BUILD_DIR=${BUILD_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/release}
library=$BUILD_DIR/libbuoy_preload.so
for need in "$library" "$(command -v objdump)" "$(command -v python3)"; do
  [[ -e $need ]] || { echo "skipped: no preload library, objdump or python3"; exit 77; }
done
grep -q '^CMAKE_CXX_COMPILER:.*clang' "$BUILD_DIR/CMakeCache.txt" 2>/dev/null &&
  { echo "skipped: built by clang, whose entry saves them for all calls"; exit 77; }
objdump -d --no-show-raw-insn "$library" | python3 -c '
import re, sys
functions, name = {}, None
for line in sys.stdin:
    if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
        name = head.group(1)
        functions.setdefault(name, [])
    elif name and line.strip():
        functions[name].append(line.strip())

def one(part):
    found = [f for f in functions if part in f and ".cold" not in f]
    assert len(found) == 1, f"{part}: {found}"
    return found[0]

# Behind these they are saved.
saved = {"buoy_gate_keep_vectors", one("gate17with_vectors_kept")}
reached, wrong = {}, []
todo = [(one(part), None) for part in sys.argv[1:]]
while todo:
    f, caller = todo.pop()
    if f in reached or f in saved:
        continue
    reached[f] = caller
    if f not in functions or not functions[f]:
        wrong.append(f"{caller} calls {f}, which is not in the library")
        continue
    for line in functions[f]:
        if re.search(r"%[xyz]mm", line):
            wrong.append(f"{f} (called by {caller}): {line}")
            break
        # Calls, and jumps to other functions.
        if target := re.search(r"\b(?:call|j[a-z]+)\s+[0-9a-f]+ <([^>+]+)(?:\+0x[0-9a-f]+)?>", line):
            if target.group(1) != f:
                todo.append((target.group(1), f))
print(len(reached), "functions run before the vector registers are saved")
for line in wrong:
    print("FAILED:", line)
sys.exit(1 if wrong or len(reached) < 10 else 0)' ${ROOTS:-12_GLOBAL__N_18in_frontE 12_GLOBAL__N_16behindE}
