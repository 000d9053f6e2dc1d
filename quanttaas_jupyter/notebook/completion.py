"""Completion of ``%quanttaas`` lines, and of the recipe below ``%%quanttaas``."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from pydantic import BaseModel

from ..client import api
from ..client.study import Study
from ..core import catalogue
from ..core.catalogue import Kind
from ..core.config import load_config
from ..core.recipe import (
    Budget,
    Goal,
    Latency,
    Prune,
    Recipe,
    Recover,
)
from ..core.understanding import TASKS
from .cluster_commands import KINDS
from .variables import is_data, is_function, is_model, variables

_HOOK = "complete_command"
_MATCHER = "quanttaas"
_MAGICS = ("%quanttaas", "%%quanttaas")
_FIRST_WORDS = [[word] for word in (*_MAGICS, "quanttaas")]

_PARTS: dict[str, type[BaseModel]] = {
    "prune": Prune,
    "recover": Recover,
    "goal": Goal,
    "latency": Latency,
    "budget": Budget,
}
_TECHNIQUES: dict[tuple[str, ...], Kind] = {
    ("prune", "method"): "prune",
    ("recover",): "recover",
    ("recover", "method"): "recover",
    ("quantize",): "quantize",
    ("runtime",): "runtime",
}
_VALUES: dict[tuple[str, ...], Sequence[str]] = {
    ("search",): ("grid", "auto"),
    ("goal", "minimize"): ("size", "latency"),
}
_KEY = re.compile(r"(\w+)\s*:\s*(.*)")
_VALUE_LINE = r"(?:recover|quantize|runtime|search|goal|prune)\s*:"


class Completer:
    """Completer for the ``%quanttaas`` lines of one shell; ``parsers`` are those of the commands."""

    def __init__(self, shell: InteractiveShell, parsers: Mapping[str, argparse.ArgumentParser]) -> None:
        self._shell = shell
        self._parsers = parsers

    def line(self, text: str, token: str) -> list[str]:
        """Return completions for a line of the magics.

        Args:
            text: The line up to the cursor.
            token: The end of ``text`` that IPython will replace.
        """
        magic, *words = _words(text)
        if not words:
            return []
        *before, current = words
        return _fitting(self._candidates(magic.startswith("%%"), before, current), current, token)

    def cell(self, context: Any) -> list[str]:
        """Return completions for a cell: for a line of the magics, or for the recipe below ``%%quanttaas``."""
        if context.text_until_cursor.split(None, 1)[:1] in _FIRST_WORDS:
            return self.line(context.text_until_cursor, context.token)
        lines = context.full_text.split("\n")
        first = next((number for number, line in enumerate(lines) if line.strip()), 0)
        if lines[first].split(None, 1)[:1] != ["%%quanttaas"] or context.cursor_line <= first:
            return []
        above = lines[first + 1 : context.cursor_line]
        return recipe_matches([*above, context.text_until_cursor], context.token)

    def _candidates(self, is_cell: bool, before: list[str], current: str) -> Iterable[str]:
        if is_cell:
            name = "compress"
        elif before:
            name, *before = before
        else:
            return self._parsers
        parser = self._parsers.get(name)
        if parser is None:
            return ()
        flags = parser._option_string_actions
        awaiting = flags.get(before[-1]) if before else None
        if awaiting is not None and awaiting.nargs != 0:
            return self._values(awaiting, [], _store_in(before[:-1]))
        if current.startswith("-"):
            used = {flags[word].dest for word in before if word in flags}
            return [flag for flag, action in flags.items() if action.dest not in used]
        given = _positionals(before, flags)
        expected = parser._get_positional_actions()
        if len(given) >= len(expected):
            return flags
        return self._values(expected[len(given)], given, _store_in(before))

    def _values(self, action: argparse.Action, given: list[str], store: str | None) -> Iterable[str]:
        if action.choices is not None:
            return [str(choice) for choice in action.choices]
        if action.dest == "model":
            return variables(self._shell, is_model)
        if action.dest in ("data", "calibration", "train"):
            return variables(self._shell, is_data)
        if action.dest == "task":
            return TASKS
        if action.dest in ("metric", "postprocess"):
            return variables(self._shell, is_function)
        if action.dest == "on":
            return _quietly(lambda: ["local", *load_config().clusters])
        if action.dest == "names":
            return _quietly(lambda: [*(KINDS if given == ["template"] else load_config().clusters)])
        if action.dest == "id":
            # Only the default store, since others may take seconds to answer.
            ids = _quietly(lambda: [summary.id for summary in api.studies(store=store or load_config().store)])
            return [*variables(self._shell, lambda value: isinstance(value, Study)), *ids]
        if action.dest == "trial":
            return _quietly(lambda: [trial.name for trial in self._opened(given[0], store).trials])
        return ()

    def _opened(self, name: str, store: str | None) -> Any:
        held = self._shell.user_ns.get(name)
        return held if isinstance(held, Study) else api.open(name, store=store)


def install(shell: InteractiveShell, parsers: Mapping[str, argparse.ArgumentParser]) -> None:
    """Install the completion of ``%quanttaas`` in a shell; an earlier one is replaced."""
    uninstall(shell)
    completer = Completer(shell, parsers)
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:
        _install_hooks(shell, completer)
        return

    # Not a hook: only a matcher sees the whole cell, and can suppress Jedi's Python keywords.
    @context_matcher(identifier=_MATCHER, priority=100)  # type: ignore[untyped-decorator, unused-ignore]
    def matcher(context: Any) -> dict[str, Any]:
        completions = [SimpleCompletion(text=text, type="quanttaas") for text in completer.cell(context)]
        return {"completions": completions, "suppress": True, "ordered": True}

    shell.Completer.custom_matchers.append(matcher)


def _install_hooks(shell: InteractiveShell, completer: Completer) -> None:
    # IPython before 8.6, such as Colab's, passes only one line to a hook: recipes get completions of values only.
    def line(_: InteractiveShell, event: Any) -> list[str]:
        return completer.line(event.text_until_cursor, event.symbol)

    def recipe_line(_: InteractiveShell, event: Any) -> list[str]:
        return recipe_matches([event.text_until_cursor], event.symbol)

    for magic in _MAGICS:
        shell.set_hook(_HOOK, line, str_key=magic)
    shell.set_hook(_HOOK, recipe_line, re_key=_VALUE_LINE)


def uninstall(shell: InteractiveShell) -> None:
    """Remove the completion of ``%quanttaas`` from a shell."""
    dispatch = shell.strdispatchers[_HOOK]
    for magic in _MAGICS:
        dispatch.strs.pop(magic, None)
    dispatch.regexs.pop(re.compile(_VALUE_LINE), None)
    matchers = shell.Completer.custom_matchers
    matchers[:] = [known for known in matchers if getattr(known, "matcher_identifier", "") != _MATCHER]


def recipe_matches(lines: Sequence[str], token: str) -> list[str]:
    """Return completions for a recipe.

    Args:
        lines: The recipe up to the cursor, which is at the end of the last line.
        token: The end of the last line that IPython will replace.
    """
    *above, current = lines
    if re.fullmatch(r"\w*", current):
        return _fitting([f"{key}: " for key in Recipe.model_fields], current, token)
    section, rest, is_mapping = _section(above, current)
    part = _PARTS.get(section)
    is_mapping = is_mapping or rest.count("{") > rest.count("}")
    tail = re.split(r"[\[{,]", rest)[-1].lstrip()
    inner = _KEY.fullmatch(tail) if is_mapping else None
    if inner:
        return _fitting(_values_of((section, inner[1])), inner[2], token)
    if is_mapping:
        return _fitting([f"{key}: " for key in part.model_fields] if part else (), tail, token)
    return _fitting(_values_of((section,)), tail, token)


def _values_of(location: tuple[str, ...]) -> Sequence[str]:
    kind = _TECHNIQUES.get(location)
    return catalogue.names(kind) if kind else _VALUES.get(location, ())


def _section(above: Sequence[str], current: str) -> tuple[str, str, bool]:
    """Return the top-level key at the cursor, the text after it, and whether that starts a block mapping."""
    here = _KEY.fullmatch(current)
    if here:
        return here[1], here[2], False
    opened = next((match[1] for match in map(_KEY.match, reversed(above)) if match), "")
    text = current.lstrip()
    is_item = text.startswith("-")
    # The items of a list are values, except under prune, where they may be mappings.
    is_mapping = opened in _PARTS if is_item else current[:1] == " "
    return opened, text[1:].lstrip() if is_item else text, is_mapping


def _fitting(candidates: Iterable[str], typed: str, token: str) -> list[str]:
    # IPython replaces only its own token, which starts after characters such as ":" and "@" that belong to words here.
    kept = len(typed) - len(token)
    return [text[kept:] for text in candidates if text.startswith(typed)] if kept >= 0 else []


def _words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        words = text.split()
    return words if text[-1:] not in ("", " ", "\t") else [*words, ""]


def _positionals(words: Sequence[str], flags: Mapping[str, argparse.Action]) -> list[str]:
    given: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            given.append(word)
        elif word in flags and flags[word].nargs != 0:
            next(rest, None)
    return given


def _store_in(words: Sequence[str]) -> str | None:
    following: Iterator[str] = iter(words[1:])
    return next((value for word, value in zip(words, following, strict=False) if word == "--store"), None)


def _quietly(find: Callable[[], list[str]]) -> list[str]:
    # An unreachable store must not raise an error on Tab; it only gives no suggestions.
    try:
        return find()
    except Exception:
        return []
