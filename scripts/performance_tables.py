#!/usr/bin/env python3
"""Writes the tables of docs/performance-tables.md from what `buoy-bench NAME --json` prints.

Usage: buoy-bench NAME [OPTION...] --json | scripts/performance_tables.py [--file FILE] [--note TEXT]

Replaces the section of each benchmark that standard input has lines of, or adds it; other sections stay.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import sys

FILE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "performance-tables.md"


def number(value):
    """Three significant digits: more would be noise."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def row(line):
    if line.get("buoy") is None:
        return f"| {line['case']} | failed: {line.get('why', '')} | | | | |"
    peer = line["peer_name"] + (f": {line['why']}" if line.get("why") else "")
    return (f"| {line['case']} | {number(line['buoy'])} | {number(line['peer'])} | {line['unit']} "
            f"| {number(line['ratio'])} | {peer} |")


def section(bench, lines, note):
    machine = f"{os.cpu_count()} CPUs, Linux {platform.release()}"
    head = f"`buoy-bench {bench}`: {machine}{'; ' + note if note else ''}.\n"
    table = "\n".join(["| case | Buoy | peer | unit | ratio | peer is |",
                       "| --- | --- | --- | --- | --- | --- |", *map(row, lines)])
    return f"## {bench}\n\n{head}\n{table}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=pathlib.Path, default=FILE)
    parser.add_argument("--note", default="", help="how it was measured: options, what else ran")
    options = parser.parse_args()
    benches = {}
    for n, text in enumerate(sys.stdin, 1):
        try:
            line = json.loads(text)
            benches.setdefault(line["bench"], []).append(line)
        except (ValueError, KeyError, TypeError):
            sys.exit(f"performance_tables: line {n} is not from `buoy-bench --json`: {text.strip()[:60]}")
    if not benches:
        sys.exit("performance_tables: nothing to read; pipe the output of `buoy-bench NAME --json` in")
    document = options.file.read_text()
    for bench, lines in benches.items():
        new = section(bench, lines, options.note)
        old = re.compile(rf"^## {re.escape(bench)}\n.*?(?=^## |\Z)", re.M | re.S)
        if old.search(document):
            document = old.sub(lambda _: new + "\n", document)
        else:
            document = document.rstrip("\n") + "\n\n" + new
    options.file.write_text(document.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
