#!/usr/bin/env python3
"""Adds userfaultfd(2), which Buoy needs, to a seccomp profile of Docker or Podman: stdin to stdout.

    curl -O https://raw.githubusercontent.com/moby/profiles/main/seccomp/default.json     (Docker)
    python3 allow-userfaultfd.py <default.json >buoy-seccomp.json
    docker run --security-opt seccomp=buoy-seccomp.json ...

Podman's is /usr/share/containers/seccomp.json. The profile stays the one of your version, with one call
more. Nothing else that Buoy calls is missing from it.
"""
import json
import sys

CALL = "userfaultfd"


def allow(profile):
    """Takes the call out of every rule that names it, and appends one that allows it."""
    rules = []
    for rule in profile["syscalls"]:
        names = [name for name in rule.get("names", [rule.get("name")]) if name != CALL]
        if names:
            rules.append({**rule, "names": names} if "names" in rule else rule)
    rules.append({"names": [CALL], "action": "SCMP_ACT_ALLOW",
                  "comment": "Buoy: memory within a budget"})
    return {**profile, "syscalls": rules}


def main():
    try:
        profile = allow(json.load(sys.stdin))
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"allow-userfaultfd: stdin is no seccomp profile ({error!r}); see the head of this file")
    json.dump(profile, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
