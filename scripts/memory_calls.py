#!/usr/bin/env python3
"""Random memory calls natively and under `buoy run`, step by step; what differs is made small.

  scripts/memory_calls.py [--first SEED] [--sequences N] [--steps N] [--at-once N] [--keep-going]
                          [-- BUOY RUN OPTIONS]

Records with tests/programs/memory_calls and compares with the same program in a budget. Of a sequence
that differs, steps are left out as long as it still does; what is left is printed, as it went on both
sides. BUILD_DIR names the build folder. Status 1 if anything differed.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("BUILD_DIR", os.path.join(ROOT, "build/release"))
PROGRAM = os.path.join(BUILD, "tests/programs/memory_calls")
SECONDS = 600


class Side:
    """Runs the program: records natively, or compares in a budget."""

    def __init__(self, options, pressed, folder):
        self.run = [os.path.join(BUILD, "buoy"), "run", *options, "--"]
        self.pressed = ["--pressed"] if pressed else []
        self.recording = os.path.join(folder, "recording")

    def call(self, prefix, verb, seed, sequences, steps, more):
        command = [*prefix, PROGRAM, verb, self.recording, str(seed), str(sequences), str(steps), *more]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)

    def differs(self, seed, sequences, steps, more=()):
        """What came of comparing, or None where all is alike."""
        native = self.call([], "record", seed, sequences, steps, more)
        if native.returncode != 0:
            return f"natively: status {native.returncode}\n{native.stderr}"
        ours = self.call(self.run, "compare", seed, sequences, steps, [*more, *self.pressed])
        if ours.returncode == 0:
            return None
        return f"status {ours.returncode}\n{ours.stdout}{ours.stderr}"


def without(dropped):
    return ["--drop=" + ",".join(f"{a}-{b}" for a, b in dropped)] if dropped else []


def ranges(steps):
    found = []
    for step in sorted(steps):
        if found and found[-1][1] == step - 1:
            found[-1][1] = step
        else:
            found.append([step, step])
    return found


def step_of(told):
    """The step at which the two sides differed."""
    found = re.search(r"^seed \d+ step (\d+)$", told or "", re.MULTILINE)
    return int(found.group(1)) if found else None


def shrink(side, seed, steps):
    """The steps that are needed for the difference: ever smaller parts are tried to be left out."""
    last = step_of(side.differs(seed, 1, steps))
    needed = list(range(steps if last is None else min(last + 1, steps)))
    part = len(needed) // 2
    while part > 0:
        at = 0
        while at < len(needed):
            trial = needed[:at] + needed[at + part:]
            gone = set(range(steps)) - set(trial)
            told = side.differs(seed, 1, steps, without(ranges(gone)))
            if told is not None and step_of(told) == last:
                needed = trial
            else:
                at += part
        part //= 2
    return needed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=20, help="sequences a process")
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("--pressed", action="store_true", help="the budget holds less than the program stores")
    parser.add_argument("options", nargs="*", help="of buoy run, behind --")
    arguments = parser.parse_args()
    options = arguments.options or ["--budget", "256M"]
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        side = Side(options, arguments.pressed, folder)
        end = arguments.first + arguments.sequences
        for first in range(arguments.first, end, arguments.at_once):
            count = min(arguments.at_once, end - first)
            if side.differs(first, count, arguments.steps) is None:
                continue
            alone = [s for s in range(first, first + count)
                     if side.differs(s, 1, arguments.steps) is not None]
            if not alone:
                print(f"sequences {first} to {first + count - 1} differ together, none alone")
                found += 1
            for seed in alone:
                found += 1
                needed = shrink(side, seed, arguments.steps)
                more = [*without(ranges(set(range(arguments.steps)) - set(needed))), "--say"]
                print(f"== sequence {seed} of {arguments.steps} steps, of which {len(needed)} are needed: "
                      f"{needed}")
                print(side.differs(seed, 1, arguments.steps, more), flush=True)
                if not arguments.keep_going:
                    return 1
    print(f"{arguments.sequences * arguments.steps} steps, {found} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
