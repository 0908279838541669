#!/usr/bin/env python3
"""Makes a man page out of docs/man/NAME.SECTION.md.

What the command says about itself is not written down twice: a line

    <!-- help: buoy run | options -->

stands for that part of what `buoy run --help` prints (usage, text, options, commands or notes), and

    <!-- header: include/buoy/buoy.h | functions -->

for that part of the header (overview, types or functions). Of Markdown it knows headings,
paragraphs, indented and fenced code, bullets, definitions (a line of its own, then `: text`), bold,
italics and code spans: what the pages use.
"""
import argparse
import pathlib
import re
import subprocess
import sys


# ---------------------------------------------------------------- roff

def escaped(text, dash="-"):
    return text.replace("\\", "\\e").replace("-", dash)


def guarded(line):
    """A line of text that begins as a request would."""
    return "\\&" + line if line[:1] in (".", "'") else line


MARKDOWN = r"(\*\*[^*]+\*\*|\*[^*]+\*|`[^`]+`)"
CODE_ONLY = r"(`[^`]+`)"  # of help and comments, where an asterisk is C's


def inline(text, marks=MARKDOWN):
    """Bold, italics and code spans of a paragraph."""
    out = []
    for part in re.split(marks, text):
        if not re.fullmatch(marks, part):
            out.append(escaped(part))
        elif part.startswith("**"):
            out.append("\\fB" + escaped(part[2:-2], "\\-") + "\\fR")
        elif part.startswith("`"):
            out.append("\\fB" + escaped(part[1:-1], "\\-") + "\\fR")
        else:
            out.append("\\fI" + escaped(part[1:-1]) + "\\fR")
    return guarded("".join(out))


def paragraph(text, marks=MARKDOWN):
    return [".PP", inline(" ".join(text.split()), marks)]


def code(lines):
    return [".PP", ".RS 4", ".nf"] + [guarded(escaped(line, "\\-")) for line in lines] + [".fi", ".RE"]


def definition(term, text, marks=MARKDOWN):
    return [".TP", term, inline(" ".join(text.split()), marks)]


def option_head(head):
    """`--faults auto|signal`: the option bold, what it takes in italics."""
    name, _, value = head.partition(" ")
    line = "\\fB" + escaped(name, "\\-") + "\\fR"
    return line + (" \\fI" + escaped(value) + "\\fR" if value else "")


# ---------------------------------------------------------------- what the command says

class Help:
    """The text of `PROGRAM ... --help`, in its parts."""

    def __init__(self, text):
        self.usage, self.text, self.notes, self.entries = [], [], [], []
        blocks = re.split(r"\n\s*\n", text.strip("\n"))
        for block in blocks:
            lines = block.split("\n")
            if lines[0].startswith("Usage: "):
                self.usage = [line[len("Usage: "):] for line in lines]
            elif re.match(r"  \S", lines[0]):
                self.entries += self.read_entries(lines)
            elif self.entries:
                self.notes.append(block)
            else:
                self.text.append(block)

    @staticmethod
    def read_entries(lines):
        """(head, text) of `  HEAD  TEXT`, or of HEAD with its text on the lines below."""
        entries = []
        for line in lines:
            found = re.match(r"  (\S.*?)(?:\s\s+(\S.*))?$", line) if re.match(r"  \S", line) else None
            if found:
                head, text = found.group(1), found.group(2) or ""
                # A head that is too long for its column has one space behind it.
                tight = re.match(r"(--[a-z-]+ [a-z|]+) ([a-z].*)$", head) if not text else None
                entries.append(list(tight.groups()) if tight else [head, text])
            else:
                entries[-1][1] += " " + line.strip()
        return entries

    def roff(self, part):
        if part == "usage":
            return code(self.usage)
        if part in ("text", "notes"):
            return [line for block in getattr(self, part) for line in paragraph(block, CODE_ONLY)]
        if part == "options":
            chosen = [e for e in self.entries if e[0].startswith("-")]
        elif part == "commands":
            chosen = [e for e in self.entries if not e[0].startswith("-")]
        else:
            raise SystemExit(f"make_man: help has no part '{part}'")
        if not chosen:
            raise SystemExit(f"make_man: the help has no {part}")
        return [line for head, text in chosen
                for line in definition(option_head(head), text, CODE_ONLY)]


# ---------------------------------------------------------------- what a header says

def plain_comment(text):
    """The words of a C comment, its paragraphs apart."""
    body = re.sub(r"^/\*|\*/$", "", text.strip())
    return "\n".join(re.sub(r"^\s*\* ?", "", line) for line in body.split("\n")).strip()


class Header:
    """A C header: its first comment, its types, its functions with the comments before them."""

    def __init__(self, text):
        self.overview = plain_comment(re.match(r"/\*.*?\*/", text, re.S).group(0))
        self.types, self.functions = [], []
        comment = ""
        token = re.compile(
            r"(?P<comment>^/\*.*?\*/)|(?P<function>^BUOY_API\b[^;]*;)|(?P<macro>^#define BUOY_\w+\([^\n]*)"
            r"|(?P<type>^enum \{[^\n]*\};|^(?:enum|struct) \w* ?\{.*?^\};|^typedef [^;]*;)", re.S | re.M)
        body = text[text.index("*/") + 2:]
        for found in token.finditer(body):
            if found.group("comment"):
                comment = plain_comment(found.group("comment"))
                continue
            if found.group("function"):
                words = " ".join(found.group("function").replace("BUOY_API ", "").split())
                self.functions.append((words, comment))
            else:
                self.types.append((found.group(0).rstrip(), comment))
            comment = ""

    def roff(self, part):
        if part == "overview":
            return [line for block in self.overview.split("\n\n")
                    for line in paragraph(block, CODE_ONLY)]
        out = []
        if part == "types":
            for declaration, comment in self.types:
                out += (paragraph(comment, CODE_ONLY) if comment else []) + code(declaration.split("\n"))
            return out
        if part == "functions":
            for declaration, comment in self.functions:
                out += definition("\\fB" + escaped(declaration, "\\-") + "\\fR", comment, CODE_ONLY)
            return out
        raise SystemExit(f"make_man: a header has no part '{part}'")


# ---------------------------------------------------------------- the page

class Page:
    def __init__(self, programs, root):
        self.programs, self.root, self.out = programs, root, []

    def include(self, kind, what, part):
        if kind == "header":
            return Header((self.root / what).read_text()).roff(part)
        name, *words = what.split()
        run = subprocess.run([self.programs[name], *words, "--help"], text=True, check=True,
                             stdout=subprocess.PIPE, timeout=20)
        return Help(run.stdout).roff(part)

    def block(self, block):
        lines = block.split("\n")
        first = lines[0]
        if found := re.match(r"<!-- (help|header): (.*?) \| (\w+) -->$", first):
            self.out += self.include(*found.groups())
        elif first.startswith("<!--"):
            return
        elif first.startswith("### "):
            self.out += [".SS " + escaped(first[4:])]
        elif first.startswith("## "):
            self.out += [".SH " + escaped(first[3:].upper())]
        elif first.startswith("    "):
            self.out += code([line[4:] for line in lines])
        elif first.startswith("- "):
            for item in re.split(r"\n(?=- )", block):
                self.out += [".IP \\(bu 2", inline(" ".join(item[2:].split()))]
        elif len(lines) > 1 and lines[1].startswith(": "):
            self.out += definition(inline(first), "\n".join(lines[1:])[2:])
        else:
            self.out += paragraph(block)


def make(source, programs, version):
    text = source.read_text()
    title = re.match(r"# (\S+)\((\d)\)\n", text)
    if not title:
        raise SystemExit(f"make_man: {source}: the first line is not `# name(section)`")
    page = Page(programs, source.resolve().parents[2])
    page.out.append(f'.TH {title.group(1).upper()} {title.group(2)} "" "Buoy {version}" "Buoy"')
    for block in re.split(r"\n\s*\n", text[title.end():].strip("\n")):
        page.block(block)
    return re.sub(r"(\.S[HS] .*\n)\.PP\n", r"\1", "\n".join(page.out) + "\n")


def main():
    parser = argparse.ArgumentParser(description="Makes a man page.")
    parser.add_argument("--version", required=True)
    parser.add_argument("--program", action="append", default=[], metavar="NAME=PATH",
                        help="the program that NAME stands for in `help:` lines")
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    programs = dict(entry.split("=", 1) for entry in arguments.program)
    arguments.out.write_text(make(arguments.source, programs, arguments.version))


if __name__ == "__main__":
    sys.exit(main())
