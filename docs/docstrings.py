"""The project's docstrings are plain text: this turns one into reStructuredText without losing a line of it."""

from __future__ import annotations

import re

ITEM = re.compile(r"^(?P<names>[A-Za-z_][\w.*]*(?:, [A-Za-z_][\w.*]*)*): (?P<text>.*)$")


def escape(text: str) -> str:
    """Plain text as reStructuredText; `code` stays code."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(
        re.sub(r"([\\*|_<>\[\]])", r"\\\1", part) if i % 2 == 0 else f"``{part}``" for i, part in enumerate(parts)
    )


def convert(lines: list[str]) -> list[str]:
    """Paragraphs stay paragraphs, `name: what it is` with indented lines becomes a list, other indented lines a literal."""
    out, i = [], 0
    while i < len(lines):
        line = lines[i]
        item = ITEM.match(line)
        if not line.strip():
            out.append("")
            i += 1
        elif line.startswith("    "):
            block = []
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i].strip()):
                block.append(lines[i])
                i += 1
            out += ["", "::", "", *block, ""]
        elif item:
            text = [item["text"]]
            i += 1
            while i < len(lines) and lines[i].startswith("    "):
                text.append(lines[i].strip())
                i += 1
            names = ", ".join(f"``{name}``" for name in item["names"].split(", "))
            out += ["", f"- {names}: {escape(' '.join(text))}", ""]
        else:
            out.append(escape(line))
            i += 1
    return out


def to_rst(app, what, name, obj, options, lines):
    """Hook of autodoc: `lines` is changed in place."""
    lines[:] = convert(lines)
