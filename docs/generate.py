"""Fill the reference pages from the code, and check what the other pages quote from it.

MkDocs calls this file as a hook. ``<!-- generated: NAME -->`` in a page is replaced by what ``GENERATORS[NAME]``
returns, ``<!-- include: PATH -->`` by a Markdown file of the repository. Two checks warn, and a strict build fails on
a warning: every sentence that ``troubleshooting.md`` quotes stands in the code, and every recipe in a page is valid.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import logging
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from mkdocs.structure.files import File
from pydantic import BaseModel

PACKAGE = "quanttaas_jupyter"
RECIPE = f"{PACKAGE}.core.recipe"
CATALOGUE = f"{PACKAGE}.core.catalogue"
CONFIG = f"{PACKAGE}.core.config"
ERRORS = f"{PACKAGE}.core.errors"
MAGICS = f"{PACKAGE}.notebook.magics"
# By kind of the catalogue: title, module, name of its registry.
TECHNIQUES = {
    "prune": ("Pruning", f"{PACKAGE}.techniques.prune", "PRUNERS"),
    "recover": ("Recovery", f"{PACKAGE}.techniques.recover", "RECOVERIES"),
    "quantize": ("Quantization", f"{PACKAGE}.techniques.quantize", "QUANTIZERS"),
    "runtime": ("Runtimes", f"{PACKAGE}.techniques.runtimes", "RUNTIMES"),
}

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ROOT / "docs" / "reference" / "recipe.yml"

log = logging.getLogger("mkdocs.hooks.generate")

# Pictures of the repository that pages show under ``assets/``.
_PICTURES = ("examples/quickstart.png", "examples/panel.png")
# Keys whose values are names of the catalogue, by its kinds, and keys whose values a list of the module holds.
_NAMED = {"prune.method": "prune", "recover.method": "recover", "quantize": "quantize", "runtime": "runtime"}
_LISTED = {"prune.importance": "IMPORTANCES", "calibrator": "CALIBRATORS"}
# Keys whose default depends on the rest of the recipe.
_DEFAULTS = {
    "recover": "`distill`",
    "search": "`auto` where the recipe names neither `prune` nor `quantize`, else `grid`",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def on_config(config: Any) -> Any:
    """Import the package of this repository, whether it is installed or not."""
    sys.path.insert(0, str(ROOT))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures that the README shows too."""
    for picture in map(Path, _PICTURES):
        files.append(File.generated(config, f"assets/{picture.name}", abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the markers of a page, then check the page."""
    where = page.file.src_uri
    text = re.sub(r"<!-- include: (\S+) -->", lambda found: _included(found[1]), markdown)
    text = re.sub(r"<!-- generated: (\S+) -->", lambda found: GENERATORS[found[1]](), text)
    _check_recipes(text, where)
    if where == "troubleshooting.md":
        _check_sentences(text, where)
    return text


def recipe_keys() -> str:
    """Return one section a key of the recipe: what it does, its values, its default."""
    module = importlib.import_module(RECIPE)
    texts = yaml.safe_load(TEXTS.read_text(encoding="utf-8"))
    seen: set[str] = set()
    sections = [_key_section(module, texts, name, seen) for name in module.Recipe.model_fields]
    for stale in sorted(set(texts) - seen):
        log.warning("reference/recipe.yml describes %r, which is no key of the recipe", stale)
    return "\n\n".join(sections)


def magic_commands() -> str:
    """Return one section a command of the magic: its usage and its arguments."""
    commands = importlib.import_module(MAGICS).COMMANDS
    return "\n\n".join(_command_section(name, method) for name, method in commands.items())


def techniques() -> str:
    """Return one table a kind of technique: its names, in the order of lists."""
    catalogue = importlib.import_module(CATALOGUE)
    tables = []
    for kind, (title, module, name) in TECHNIQUES.items():
        registry = getattr(importlib.import_module(module), name)
        known = catalogue.techniques(kind)
        rows = [_technique_row(kind, known[item], registry) for item in catalogue.names(kind)]
        places = ["runtimes"] if kind == "quantize" else []
        tables.append(f"## {title}\n\n{_table(['name', 'what it does', *places, 'extra'], rows)}")
    return "\n\n".join(tables)


def errors() -> str:
    """Return the table of all errors that a person can mend."""
    module = importlib.import_module(ERRORS)
    base = module.QuantTaaSError
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base)]
    rows = [[f"`{cls.__name__}`", _built_ins(cls), _first_line(cls)] for cls in found]
    return _table(["error", "is also a", "when"], rows)


def configuration() -> str:
    """Return one table for each part of the configuration file."""
    module = importlib.import_module(CONFIG)
    return "\n\n".join(
        f"## {title}\n\n{_config_table(getattr(module, name))}"
        for title, name in (
            ("`engine`", "EngineConfig"),
            ("`clusters.NAME`", "ClusterConfig"),
            ("`clusters.NAME.slot`", "SlotConfig"),
            ("`clusters.NAME.prices`", "Prices"),
        )
    )


GENERATORS = {
    "recipe": recipe_keys,
    "magic": magic_commands,
    "techniques": techniques,
    "errors": errors,
    "configuration": configuration,
}


def _included(path: str) -> str:
    """Return a Markdown file; the page brings the title itself."""
    return re.sub(r"\A# .*\n+", "", (ROOT / path).read_text(encoding="utf-8"))


def _key_section(module: Any, texts: dict[str, str], name: str, seen: set[str]) -> str:
    field = module.Recipe.model_fields[name]
    lines = [f"### `{name}`", _text(field, texts, name, seen)]
    if part := _model_in(field.annotation):
        rows = [
            [f"`{key}`", _values(module, inner, f"{name}.{key}"), _default_of(inner), _text(inner, texts, key_, seen)]
            for key, inner in part.model_fields.items()
            for key_ in [f"{name}.{key}"]
        ]
        lines.append(_table(["key", "values", "default", "meaning"], rows))
    elif values := _values(module, field, name):
        lines.append(f"Values: {values}.")
    lines.append(f"Default: {_default_of_key(module, name, field)}.")
    return "\n\n".join(lines)


def _text(field: Any, texts: dict[str, str], key: str, seen: set[str]) -> str:
    """The description of the field itself, else the text kept beside the page."""
    seen.add(key)
    if not (field.description or key in texts):
        log.warning("%r of the recipe has no text; write one into docs/reference/recipe.yml", key)
    return str(field.description or texts.get(key, "")).strip()


def _values(module: Any, field: Any, key: str) -> str:
    if key in _NAMED:
        return _codes(importlib.import_module(CATALOGUE).names(_NAMED[key]))
    if key in _LISTED:
        return _codes(getattr(module, _LISTED[key]))
    if literal := _literal_in(field.annotation):
        return _codes(literal)
    bounds = [
        f"{word} {_number(getattr(rule, bound))}"
        for rule in field.metadata
        for bound, word in _BOUNDS.items()
        if getattr(rule, bound, None) is not None
    ]
    return ", ".join(bounds)


def _default_of_key(module: Any, name: str, field: Any) -> str:
    if name in _DEFAULTS:
        return _DEFAULTS[name]
    if name in ("prune", "quantize"):
        grid, auto = (_yaml(module, name, {"search": search}) for search in ("grid", "auto"))
        return f"`{grid}` under `search: grid`, `{auto}` under `search: auto`"
    if _model_in(field.annotation) and field.default is not None:
        return "the values in the table"
    return _default_of(field)


def _default_of(field: Any) -> str:
    if field.is_required():
        return "must be given"
    default = field.get_default(call_default_factory=True)
    if default is None or default == ():
        return "not set"
    if isinstance(default, tuple):
        return _codes(default)
    return f"`{_number(default)}`" if isinstance(default, (int, float)) else f"`{default}`"


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _yaml(module: Any, name: str, values: dict[str, Any]) -> str:
    """A default of the recipe, as a person would write it."""
    found = getattr(module.Recipe.model_validate(values), name)
    short = [getattr(item, "amount", item) for item in found]
    return str(module.inline([int(item) if item == 0.0 else item for item in short]))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model behind ``Part``, ``tuple[Part, ...]`` or ``Part | None``."""
    candidates = [annotation, *get_args(annotation)]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _literal_in(annotation: Any) -> tuple[Any, ...]:
    candidates = [annotation, *get_args(annotation)]
    return next((get_args(item) for item in candidates if get_origin(item) is Literal), ())


def _command_section(name: str, method: Any) -> str:
    actions = [action for action in method.parser._actions if action.dest != "help"]
    rows = [[_argument(action), _escaped(action.help or "")] for action in actions]
    lines = [f"### `%quanttaas {name}`", _markdown(method.summary.strip())]
    if rows:
        lines.append(_table(["argument", "meaning"], rows))
    return "\n\n".join(lines)


def _argument(action: Any) -> str:
    metavar = action.metavar or action.dest.upper()
    if not action.option_strings:
        return f"`[{metavar}]`" if action.nargs in ("?", "*") else f"`{metavar}`"
    value = "" if action.nargs == 0 else f" {metavar}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _technique_row(kind: str, about: Any, registry: Any) -> list[str]:
    keys = [key for key in registry.keys() if about.name == (key[0] if kind == "quantize" else key)]  # noqa: SIM118
    extras = sorted({entry.extra for key in keys if (entry := registry.find(key)) and entry.extra})
    runtimes = [_codes(key[1] for key in keys) or "all"] if kind == "quantize" else []
    return [f"`{about.name}`", _markdown(about.help), *runtimes, ", ".join(f"`[{extra}]`" for extra in extras)]


def _first_line(value: Any) -> str:
    owner = value if isinstance(value, type) or inspect.isroutine(value) else type(value)
    return _markdown(inspect.cleandoc(owner.__doc__ or "").partition("\n")[0])


def _built_ins(cls: type) -> str:
    return _codes(base.__name__ for base in cls.__bases__ if hasattr(builtins, base.__name__) and base is not Exception)


def _config_table(model: type[BaseModel]) -> str:
    about = _attributes(model)
    rows = []
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        default = "see below" if inner else _default_of(field)
        rows.append([f"`{name}`", default, field.description or about.get(name, "")])
    return _table(["key", "default", "meaning"], rows) if any(row[2] for row in rows) else _bare(rows, model)


def _bare(rows: list[list[str]], model: type[BaseModel]) -> str:
    return f"{_first_line(model)}\n\n{_table(['key', 'default'], [row[:2] for row in rows])}"


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """What the section ``Attributes:`` of a docstring says, by name."""
    section = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    lines = re.split(r"\n(?=\s{4}\w+: )", f"\n{section}")
    found = (re.match(r"\s*(\w+): (.*)", line, re.DOTALL) for line in lines)
    return {match[1]: _markdown(" ".join(match[2].split())) for match in found if match}


def _check_recipes(text: str, where: str) -> None:
    """Warn of a block titled "recipe" that the code refuses."""
    parse = importlib.import_module(RECIPE).Recipe.parse
    for block in re.findall(r'^```yaml title="recipe"\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
        try:
            parse(block)
        except ValueError as error:
            log.warning("%s holds a recipe that is refused: %s", where, error)


def _check_sentences(text: str, where: str) -> None:
    """Warn of a quoted sentence that no string of the package holds; dots stand for what varies."""
    known = "\n".join(_strings(ROOT / PACKAGE))
    for quoted in re.findall(r"^`(.+)`\n:", text, re.MULTILINE):
        missing = [piece for piece in map(str.strip, quoted.split("...")) if piece and piece not in known]
        if missing:
            log.warning("%s quotes %r, but no sentence of the code holds %r", where, quoted, missing[0])


def _strings(folder: Path) -> Iterable[str]:
    """All literal strings of a package, the fixed parts of f-strings among them."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _codes(values: Iterable[Any]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _markdown(text: str) -> str:
    """Of reStructuredText only the double backticks differ."""
    return text.replace("``", "`")


def _escaped(text: str) -> str:
    return text.replace("%%", "%")


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)
