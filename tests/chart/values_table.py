"""The table of all values in the chart's README, made from the comments in values.yaml. With --write it is brought up to date."""

import json
import re
import sys
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "baton"
BEGIN, END = "<!-- values -->\n", "<!-- end of values -->\n"


def documented(text):
    """(path, what the comment says) of every key that has one, in order. A comment begins with `# -- ` and goes on with `# `."""
    stack, comment, found = [], [], []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped[5:]]
        elif stripped.startswith("#"):
            if comment:
                comment.append(stripped.lstrip("# "))
        elif match := re.match(r"^( *)([A-Za-z0-9_.-]+):", line):
            depth = len(match[1]) // 2
            stack = [*stack[:depth], match[2]]
            if comment:
                found.append((tuple(stack), " ".join(comment)))
            comment = []
        else:
            comment = []
    return found


def lookup(values, path):
    for key in path:
        values = values[key]
    return values


def table():
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    lines = ["| value | default | what it is |", "| --- | --- | --- |"]
    for path, says in documented(text):
        default = json.dumps(lookup(values, path), ensure_ascii=False)
        lines.append(f"| `{'.'.join(path)}` | `{default}` | {says.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def parts(readme):
    before, rest = readme.split(BEGIN)
    inside, after = rest.split(END)
    return before, inside, after


if __name__ == "__main__":
    readme = CHART / "README.md"
    before, _, after = parts(readme.read_text())
    if "--write" in sys.argv:
        readme.write_text(before + BEGIN + table() + END + after)
    else:
        print(table(), end="")
