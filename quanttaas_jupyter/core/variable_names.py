"""Parsing of variable names in magics: a name, an attribute or an item, and nothing that runs code."""

from __future__ import annotations

import ast
import keyword

from .errors import QuantTaaSError

_SIMPLE = 'give a name such as model, loaders["test"] or config.model, and put anything longer into a variable first'


class MagicError(QuantTaaSError, ValueError):
    """The line of a magic cannot be read, or names a variable that does not exist."""


def parse(text: str) -> ast.expr:
    """Parse a name, with attributes, constant indices and commas allowed, into a syntax tree.

    Raises:
        MagicError: The text is anything else, such as an expression that would run code.
    """
    try:
        expression = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # ValueError: a null byte; the other two: thousands of nested brackets.
        raise MagicError(f"{text!r} is not a variable; {_SIMPLE}") from None
    if not _is_simple(expression):
        raise MagicError(f"{text!r} is more than a variable; {_SIMPLE}")
    return expression


def check_variable(name: str) -> None:
    """Check that a name can be given to a new variable.

    Raises:
        MagicError: It is not an identifier, or it is a Python keyword.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise MagicError(f"-o {name}: a variable's name has letters, digits and _ only, such as study")


def _is_simple(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return all(map(_is_simple, node.elts))
    if isinstance(node, ast.Attribute):
        return _is_simple(node.value)
    if isinstance(node, ast.Subscript):
        return _is_simple(node.value) and _is_literal(node.slice)
    return isinstance(node, (ast.Name, ast.Constant))


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True
