"""Cells that the panel writes: any text in any field is one line, and the magic gets the same text back."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell

from quanttaas_jupyter.core.errors import QuantTaaSError
from quanttaas_jupyter.core.magic_line import line, split, variable, word
from quanttaas_jupyter.core.variable_names import MagicError
from quanttaas_jupyter.notebook import magics

ANY = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
NASTY = [
    "x\nimport os",
    "x{open('/tmp/owned','w')}",
    "$HOME",
    "{{x}}",
    "--out=os",
    "-o",
    "-1",
    "--help",
    "a b",
    "a?",
    "a??",
    "\\",
    "a\\",
    '"',
    "'",
    'u"',
    'u"\\n"',
    "(",
    "[",
    "a(b",
    "!ls",
    "%time",
    ";",
    "#",
    "\0",
    "\r",
    "\x0b\x0c\x1c\x85\u2028\u2029",
    "\ud800",
    "\u202e",
    "",
    " ",
    "é",
    "@file",
    "=",
]


def run(cell: str) -> Namespace:
    """What the magic gets of a cell, after IPython has made Python of it."""
    calls: list[tuple[str, str]] = []

    class Shell:
        def run_line_magic(self, name: str, text: str) -> None:
            calls.append((name, text))

    exec(TransformerManager().transform_cell(cell), {"get_ipython": Shell})
    [(name, text)] = calls
    assert name == "quanttaas"
    command, *words = split(text)
    parsed: Namespace = magics._parse(command, words)
    return parsed


def nasty(test: Any) -> Any:
    for text in NASTY:
        test = example(text)(test)
    return test


@nasty
@given(ANY)
def test_any_text_is_one_word_of_one_line(text: str) -> None:
    written = word(text)
    assert len(f"x{written}x".splitlines()) == 1
    assert split(f"a {written} b") == ["a", text, "b"]


@nasty
@given(ANY)
def test_a_trial_of_any_name_is_loaded_by_that_name(text: str) -> None:
    args = run(line("load", "abcd1234", text, store=text))
    assert (args.id, args.trial, args.out) == ("abcd1234", text, None)
    assert args.store == (text or None)


@nasty
@given(ANY)
def test_an_id_of_any_text_is_nothing_but_an_id(text: str) -> None:
    args = run(line("attach", text))
    assert (args.id, args.store, args.out) == (text, None, None)


@nasty
@given(ANY)
def test_every_text_option_of_a_study_comes_back(text: str) -> None:
    names = ("data", "calibration", "train", "metric", "task", "labels", "output", "postprocess", "on", "store", "name")
    args = run(line("compress", text, **dict.fromkeys(names, text)))
    assert args.model == text
    assert all(getattr(args, name) == (text or None) for name in names)


@pytest.mark.parametrize("text", ["model", "loaders['my test']", "config.model", "(inputs, targets)", "a[0]", "x['é']"])
def test_a_variable_stays_readable(text: str) -> None:
    assert variable(text) == text
    assert split(variable(text)) == [text]


@pytest.mark.parametrize("text", ["x['{y}']", "x['$y']", "x['a\\nb']", "x['\\\\']", "x['?']", "x['\"(']"])
def test_a_key_with_signs_of_its_own_comes_back(text: str) -> None:
    assert split(f"compress {variable(text)}")[1] == text


@given(ANY)
def test_any_line_is_words_or_one_sentence(text: str) -> None:
    try:
        split(text)
    except MagicError as error:
        assert isinstance(error, QuantTaaSError)  # noqa: PT017


def test_the_magic_expands_nothing(tmp_path: Path) -> None:
    shell = InteractiveShell()
    try:
        shell.register_magics(magics.QuantTaaSMagics)
        shell.user_ns["where"] = tmp_path
        expressions = "{(where / str(1)).touch()}", "{(where / str(2)).touch()}"
        for cell in (f'%quanttaas attach "{expressions[0]}"', f"%%quanttaas {expressions[1]} $where\nx"):
            with pytest.raises(QuantTaaSError):
                shell.run_cell(cell).raise_error()
        assert list(tmp_path.glob("[12]")) == []
    finally:
        shell.restore_sys_module_state()
