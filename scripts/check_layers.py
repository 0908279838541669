#!/usr/bin/env python3
"""Fails if a file of a layer includes a header of a layer that src/layers.txt does not allow it, or a
header of an opaque layer that is none of its doors, or makes a system call where none is made.

Usage: scripts/check_layers.py [ROOT]

Tests, benchmarks and fuzzers beside the code obey the table too, but may look behind doors. What lies outside the layers
(include/, bench/, tests/, examples/) is checked in one way only: public headers include nothing
of src/.
"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)
SUFFIXES = {".cc", ".h", ".hpp", ".c", ".inc"}
CALL = re.compile(r"\bSYS_[a-z]")
NO_PRODUCT = re.compile(r"_(test|testing|bench|fuzz)\.[a-z]+$")


def read_table(path):
    """The table as {layer: set of layers it may include}, the doors as {layer: set of its headers that
    other layers may include}, the layers and files that make system calls, and the mistakes in it."""
    allowed, doors, callers, errors = {}, {}, set(), []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        layer, _, below = line.partition(":")
        below = set(below.split())
        if layer == "calls":
            callers |= below
            for name in sorted(below):
                if not (path.parent / name).exists():
                    errors.append(f"{path}:{number}: there is no {name}")
            continue
        if layer.startswith("door "):
            layer = layer.split()[1]
            doors[layer] = below
            if layer not in allowed:
                errors.append(f"{path}:{number}: {layer} has doors, but is no layer above this line")
            for name in sorted(below):
                if not (path.parent / layer / name).exists():
                    errors.append(f"{path}:{number}: there is no {layer}/{name}")
            continue
        for name in sorted(below - allowed.keys()):
            errors.append(f"{path}:{number}: {layer} may not use {name}, which is not below it")
        for name in sorted(below & allowed.keys()):
            for missing in sorted(allowed[name] - below):
                errors.append(f"{path}:{number}: {layer} uses {name}, so it must list {missing}")
        allowed[layer] = below
    return allowed, doors, callers, errors


def sources(folder):
    return sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES) if folder.is_dir() else []


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    allowed, doors, callers, errors = read_table(root / "src/layers.txt")
    checked = 0

    def check(path, may_include, who):
        text = path.read_text(errors="replace")
        for match in INCLUDE.finditer(text):
            target = match.group(1)
            line = text.count("\n", 0, match.start(1)) + 1
            first = target.split("/")[0]
            if target.startswith(".."):
                errors.append(f'{path}:{line}: write "{target}" from src/, as "layer/file.h"')
            elif "/" not in target and (path.parent / target).exists():
                errors.append(f'{path}:{line}: write "{target}" as "layer/file.h"')
            elif first in allowed and first not in may_include:
                errors.append(f'{path}:{line}: {who} may not include "{target}"')
            elif first in doors and first != who and not NO_PRODUCT.search(path.name):
                if target.removeprefix(first + "/") not in doors[first]:
                    errors.append(f'{path}:{line}: "{target}" is behind the doors of {first}')

    for folder in sorted(p for p in (root / "src").iterdir() if p.is_dir()):
        if folder.name not in allowed:
            errors.append(f"{folder}: not a layer of src/layers.txt")
            continue
        for path in sources(folder):
            checked += 1
            check(path, allowed[folder.name] | {folder.name}, folder.name)
            if not callers & {folder.name, f"{folder.name}/{path.name}"} and not NO_PRODUCT.search(path.name):
                if CALL.search(path.read_text(errors="replace")):
                    errors.append(f"{path}: makes a system call by itself; src/base/sys.h has doors")
    for path in sources(root / "include"):
        checked += 1
        for match in INCLUDE.finditer(path.read_text(errors="replace")):
            if match.group(1).split("/")[0] in allowed:
                errors.append(f'{path}: a public header may not include "{match.group(1)}"')

    for error in errors:
        print(error, file=sys.stderr)
    print(f"layers: {checked} files, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
