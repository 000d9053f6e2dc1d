"""The one encoder of ``%quanttaas`` lines, and its inverse: any text in any argument stays that text, on one line.

Words that could mean something to IPython, to the splitting of a line or to the parser of options travel in quotes;
what is not printable, or has a quote, a backslash, a brace or a dollar sign, as a string literal: ``u"..."`` with
JSON's escapes.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

from .variable_names import MagicError, parse

_PLAIN = re.compile(r"[A-Za-z0-9_@+:,./~][A-Za-z0-9_@%+=:,./~-]*")
_UNQUOTABLE = frozenset('"\\{}$')
_PIECE = re.compile(r'\s*(?:(u"(?:[^"\\]|\\.)*"(?!\S)|"[^"]*"|' r"'[^']*')" r"|(\S+))")


class Quoted(str):
    """Word of a line that stood in quotes, and is therefore never an option."""

    __slots__ = ()


def word(text: str) -> str:
    """Return any text as one word of a line."""
    if _PLAIN.fullmatch(text):
        return text
    if text.isprintable() and not _UNQUOTABLE & set(text):
        return f'"{text}"'
    # Pairs of braces and dollar signs are expanded by IPython where a magic does not refuse that.
    literal = re.sub(r"[{}$]", lambda sign: f"\\u{ord(sign[0]):04x}", json.dumps(text))
    return f"u{literal}"


def variable(text: str) -> str:
    """Return a variable, such as ``loaders["test"]``, as one word; an empty string if none is named.

    Raises:
        MagicError: The text is more than a variable.
    """
    if not text.strip():
        return ""
    plain = ast.unparse(parse(text))
    # Readable as it is where the line gives back the same; a tuple has blanks inside of brackets, for example.
    is_safe = plain.isprintable() and not set("\\{}$?") & set(plain)
    return plain if is_safe and _given_back(plain) else word(plain)


def line(command: str, *words: str, **options: str) -> str:
    """Return a whole line: arguments in order, and options that are not empty, by name."""
    named = [f"--{name.replace('_', '-')} {word(value)}" for name, value in options.items() if value]
    return " ".join([f"%quanttaas {command}", *map(word, words), *named])


def split(text: str) -> list[str]:
    """Split the arguments of a line into words, without their quotes.

    Raises:
        MagicError: A quote is not closed, or a string literal is malformed.
    """
    words: list[str] = []
    is_open = False
    for is_quoted, piece in _pieces(text):
        # A blank inside brackets does not end a word: loaders["my test"], (inputs, targets).
        if is_open:
            words[-1] += f" {piece}"
        elif is_quoted:
            words.append(Quoted(_decoded(piece, text)))
            continue
        else:
            words.append(piece)
        is_open = _depth(words[-1]) > 0
    return words


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _PIECE.match(text, at)
        assert match is not None
        quoted, bare = match.groups()
        if bare is not None and bare[0] in "\"'":
            raise MagicError(f"cannot read {text!r}: no closing quotation")
        yield quoted is not None, quoted if quoted is not None else bare
        at = match.end()


def _decoded(piece: str, text: str) -> str:
    if not piece.startswith("u"):
        return piece[1:-1]
    try:
        return str(json.loads(piece[1:]))
    except ValueError:
        raise MagicError(f"cannot read {text!r}: {piece} is no string") from None


def _depth(text: str) -> int:
    return sum((letter in "([{") - (letter in ")]}") for letter in text)


def _given_back(text: str) -> bool:
    try:
        return split(text) == [text]
    except MagicError:
        return False
