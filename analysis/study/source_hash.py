"""What Python source does, as a hash: which files a module needs inside its package, and their text without comments.

The hash is of the source itself, not of a syntax tree: `ast.unparse` and `ast.dump` give other text in Python 3.12 and 3.13,
and so do the tokens of f-strings. Tokens only say where comments, line breaks and indentation are; every other piece is
taken from the source by position, an f-string as a whole.
"""

from __future__ import annotations

import ast
import hashlib
import io
import token
import tokenize
from functools import cache
from pathlib import Path

_LAYOUT = {token.COMMENT, token.NL, token.ENCODING, token.ENDMARKER, token.TYPE_COMMENT}
_MARKS = {token.NEWLINE: "\n", token.INDENT: ">", token.DEDENT: "<"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def normalised(source: str) -> str:
    """Python source without comments, docstrings and layout, one piece per token between null characters.

    Two texts that differ only in these give the same result, and one text gives the same result in every Python from 3.11
    on. Quotes, parentheses and trailing commas count. Raises SyntaxError for what is not Python.
    """
    lines, skipped = source.splitlines(keepends=True), _docstrings(source)
    pieces, depth, start = [], 0, None  # depth and start of the f-string that a token is in
    for found in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = token.tok_name[found.type]
        if kind in ("FSTRING_START", "TSTRING_START"):
            start, depth = (found.start if depth == 0 else start), depth + 1
        elif kind in ("FSTRING_END", "TSTRING_END"):
            depth -= 1
            if depth == 0:
                pieces.append((start, _between(lines, start, found.end)))
        elif depth == 0 and found.type not in _LAYOUT:
            pieces.append((found.start, _MARKS.get(found.type, found.string)))
    kept, in_docstring = [], False
    for at, text in pieces:
        if any(first <= at < end for first, end in skipped):
            in_docstring = True
        elif not (in_docstring and text == "\n"):  # the line break after a docstring goes with it
            kept.append(text)
            in_docstring = False
        else:
            in_docstring = False
    return "\0".join(kept)


def _docstrings(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(start, end) of every docstring, as (line, column in characters)."""
    lines = source.splitlines()

    def column(line: int, offset: int) -> int:  # the tree counts bytes
        return len(lines[line - 1].encode()[:offset].decode())

    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            start, end = (text.lineno, text.col_offset), (text.end_lineno, text.end_col_offset)
            found.append(((start[0], column(*start)), (end[0], column(*end))))
    return found


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    rows = lines[start[0] - 1 : end[0]]
    rows[-1] = rows[-1][: end[1]]
    rows[0] = rows[0][start[1] :]
    return "".join(rows)


@cache
def _hash_of(source: str) -> str:
    return hashlib.sha256(normalised(source).encode()).hexdigest()[:20]


def source_hash(file: Path) -> str:
    """Hash of what a Python file does: comments, docstrings and layout do not count."""
    return _hash_of(file.read_text())


def import_closure(file: Path, package: Path, without: tuple[str, ...] = ()) -> list[Path]:
    """`file` and every file of the folder `package` that it imports, directly or not, at its top or in a function.

    file: in `package`. without: paths relative to `package` that end the search, files or folders such as "core". The
    package's own `__init__.py` is left out, as every module of it runs that. What is imported by a name that is put together
    at run time is not found. Sorted by path.
    """
    ends, found, todo = [package / name for name in without], set(), [file]
    while todo:
        path = todo.pop()
        if path in found or any(path == end or end in path.parents for end in ends):
            continue
        found.add(path)
        todo += _imported(path.read_text(), path, package)
    return sorted(found)


@cache
def _import_statements(source: str) -> list[tuple[int, tuple[str, ...]]]:
    """(number of leading dots, parts of the name) of everything that is imported, names in modules included, as they may be
    modules, too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(0, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            found += [(node.level, base), *((node.level, (*base, alias.name)) for alias in node.names)]
    return found


def _imported(source: str, path: Path, package: Path) -> list[Path]:
    """Files of `package` that the source of the file `path` imports itself."""
    here = (package.name, *path.relative_to(package).parent.parts)
    files = []
    for level, parts in _import_statements(source):
        name = (*here[: len(here) - level + 1], *parts) if level else parts
        if name[:1] != (package.name,):
            continue
        for i in range(2, len(name) + 1):  # importing a.b.c runs a/b/__init__.py, too
            inner = package.joinpath(*name[1:i])
            files += [f for f in (inner.with_suffix(".py"), inner / "__init__.py") if f.is_file()]
    return files
