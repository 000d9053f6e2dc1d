"""Proof that a ``.pt2`` file is a plain graph and its weights, without loading it.

``torch.export.load`` evaluates expressions, compiles guards and names into Python, looks up functions by name, and
unpickles some constants. A file is plain if each of its entries, keys and texts is on the lists below; what is on none
of them may be code.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ENTRIES = re.compile(
    r"data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)"
    r"|sample_inputs/model\.pt)|models/model\.json|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)"
)
_EMPTY_ENTRY = "data/sample_inputs/model.pt"
_MOST_JSON = 256 << 20
"""Most bytes of the graph; chosen, not tuned. The graph of a large language model takes some megabytes."""

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*|")
_PATH = re.compile(r"[\w.]*")
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision)"
    r"\.(?!from_file)(_?[A-Za-z]\w*|__(and|or|xor)__)\.[A-Za-z]\w*"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_(int|float|max|min|not|ite|sum)"
)
_SPEC_TYPES = ("builtins.tuple", "builtins.list", "builtins.dict", None)
_SYMBOL = re.compile(r"[a-z]{1,3}\d+")
_NUMBERS = ("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Min", "Max", "ToFloat", "Identity", "Where")
_DIVISIONS = ("Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "IntTrueDiv", "FloatTrueDiv", "ModularIndexing")
_ROUNDINGS = ("TruncToInt", "RoundToInt", "CeilToInt", "FloorToInt")
_RELATIONS = ("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "StrictLessThan", "LessThan")
_MORE_RELATIONS = ("StrictGreaterThan", "GreaterThan", "And", "Or", "Not")
_SYMPY = frozenset((*_NUMBERS, *_DIVISIONS, *_ROUNDINGS, *_RELATIONS, *_MORE_RELATIONS))
_ASSUMPTIONS = frozenset(("positive", "negative", "nonnegative", "integer", "real", "zero", "finite"))
_ARITHMETIC = (ast.Expression, ast.Load, ast.Constant, ast.Name, ast.Call, ast.BinOp, ast.UnaryOp, ast.USub, ast.Add)
_OPERATORS = (ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Div)
_COMPARISONS = (ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.BoolOp, ast.And, ast.Or, ast.Not)
_SIZES = ("size", "stride", "dim", "storage_offset")


def why_code(path: Path) -> str:
    """Return why a file may be code, or an empty string if it is a plain graph and its weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _why_entries(archive, path.stat().st_size) or _why_contents(archive)
    except (zipfile.BadZipFile, ValueError, KeyError, AttributeError, TypeError, RecursionError, NotImplementedError):
        return "it is no archive that torch.export writes"


def _why_entries(archive: zipfile.ZipFile, size: int) -> str:
    entries = archive.infolist()
    roots = {entry.filename.partition("/")[0] for entry in entries}
    names = [entry.filename.partition("/")[2] for entry in entries]
    # torch's own reader takes names in any case, and the first of two.
    if len(roots) != 1 or len({name.lower() for name in names}) != len(names) or archive.comment:
        return "its archive is ambiguous"
    for name, entry in zip(names, entries, strict=True):
        if not _ENTRIES.fullmatch(name):
            return f"it holds {name[:80]!r}"
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
            return "it is compressed"
        if name == _EMPTY_ENTRY and entry.file_size:
            return "it holds sample inputs, which are unpickled"
        # Compares the name beside the content with that of the directory.
        archive.open(entry).close()
    return ""


def _why_contents(archive: zipfile.ZipFile) -> str:
    for entry in archive.infolist():
        if not entry.filename.endswith(".json"):
            continue
        if entry.file_size > _MOST_JSON:
            return "its graph is too large"
        values = json.loads(archive.read(entry))
        if entry.filename.endswith("_config.json") and _unpickles(values):
            return "it holds pickled objects"
        if found := _first_strange(values):
            return found
    return ""


def _unpickles(config: Any) -> bool:
    return any(item["use_pickle"] is not False for item in config["config"].values())


def _first_strange(values: Any) -> str:
    """Return what of some nested JSON is on no list, or an empty string."""
    waiting: list[tuple[str, Any]] = [("", values)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            if key in ("metadata", "custom_obj_values", "treespec_namedtuple_fields") and value:
                return f"it holds {key}"
            if strange := next((name for name in value if not _PATH.fullmatch(name)), None):
                return f"it has a field {strange[:80]!r}"
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif isinstance(value, str) and not _TEXTS.get(key, _refuse)(value):
            return f"its {key} is {value[:80]!r}"
    return ""


def _refuse(text: str) -> bool:
    return False


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _is_structure(text: str) -> bool:
    """Return whether a text is a nesting of tuples, lists and dicts."""
    waiting = [json.loads(text)[1]]
    while waiting:
        item = waiting.pop()
        context = json.loads(item["context"]) if isinstance(item["context"], str) else item["context"]
        is_plain = context is None or (isinstance(context, list) and all(isinstance(key, str | int) for key in context))
        if item["type"] not in _SPEC_TYPES or not is_plain:
            return False
        waiting += item["children_spec"]
    return True


def _parsed(text: str) -> ast.AST | None:
    try:
        return ast.parse(text, mode="eval") if len(text) < 20_000 else None
    except (SyntaxError, MemoryError):
        return None


def _is_arithmetic(text: str) -> bool:
    """Return whether a text is arithmetic of numbers and symbols, as sympy prints it."""
    tree = _parsed(text)
    return tree is not None and all(_is_arithmetic_node(node) for node in ast.walk(tree))


def _is_arithmetic_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        by_name = all(item.arg in _ASSUMPTIONS and isinstance(item.value, ast.Constant) for item in node.keywords)
        return isinstance(node.func, ast.Name) and by_name
    if isinstance(node, ast.Name):
        return node.id in _SYMPY or _SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        # Only the name of a symbol is a text; a name is no code to sympy.
        is_name = isinstance(node.value, str) and _SYMBOL.fullmatch(node.value) is not None
        return is_name or (isinstance(node.value, bool | int | float) and abs(node.value) < 2**63)
    return isinstance(node, (*_ARITHMETIC, *_OPERATORS, *_COMPARISONS, ast.keyword))


def _is_guard(text: str) -> bool:
    """Return whether a text compares sizes of inputs."""
    tree = _parsed(text)
    return tree is not None and all(_is_guard_node(node) for node in ast.walk(tree))


def _is_guard_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id == "L"
    if isinstance(node, ast.Attribute):
        return node.attr in _SIZES
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and not node.keywords
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int) or (isinstance(node.value, str) and bool(_PATH.fullmatch(node.value)))
    return isinstance(node, (*_ARITHMETIC, *_OPERATORS, *_COMPARISONS, ast.Subscript))


_TEXTS: dict[str, Callable[[str], bool]] = {
    "target": _matches(_TARGET),
    "expr_str": _is_arithmetic,
    "guards_code": _is_guard,
    "in_spec": _is_structure,
    "out_spec": _is_structure,
    "name": _matches(_IDENTIFIER),
    "as_name": _matches(_IDENTIFIER),
    "user_input_name": _matches(_IDENTIFIER),
    "forward_arg_names": _matches(_IDENTIFIER),
    "fqn": _matches(_PATH),
    "parameter_name": _matches(_PATH),
    "buffer_name": _matches(_PATH),
    "tensor_constant_name": _matches(_PATH),
    "as_string": _matches(re.compile(r"[\w ]*")),
    "as_float": _matches(re.compile(r"-?Infinity|NaN")),
    "type": _matches(re.compile(r"[a-z]{1,10}")),
    "verifiers": _matches(_IDENTIFIER),
    "torch_version": _matches(re.compile(r"[\w.+-]*")),
    "path_name": _matches(re.compile(r"(weight|tensor)_\d+")),
}
"""What a text may be, by the key under which it stands."""
