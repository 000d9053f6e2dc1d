"""Magics ``%quanttaas`` and ``%%quanttaas``, which take variables of the notebook; an error shows as one sentence."""

from __future__ import annotations

import ast
import logging
import re
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from ..client import api
from ..client.study import Study
from ..core import catalogue
from ..core.errors import NotFound, QuantTaaSError, did_you_mean
from ..core.failures import one_line
from ..core.magic_line import Quoted, split
from ..core.recipe import from_yaml
from ..core.variable_names import MagicError, check_variable, parse
from ..views.format import clock, variable
from . import cluster_commands, completion

_split = split

Command = Callable[..., Any]

COMMANDS: dict[str, Command] = {}

_HELP = """\
Compress a PyTorch model that lives in this notebook: try prunings and quantizations, measure every file, pick one.

Try a recipe, and keep the study in a variable::

    %%quanttaas model --data test_loader --train train_loader -o study
    prune:    [0, 0.3, 0.5]
    quantize: [none, fp16, int8]
    goal:     {minimize: size, max_drop: 0.01}

Try the default recipe, or only see what it would do::

    %quanttaas compress model --data test_loader
    %quanttaas compress model --data test_loader --dry-run

Come back to it, from any kernel, and take a model home::

    %quanttaas studies
    %quanttaas attach 7f3a -o study
    %quanttaas load 7f3a prune50-int8
    %quanttaas export 7f3a prune50-int8 model.onnx

Run it on a Ray cluster, here or on Google Cloud::

    %quanttaas cluster start
    %quanttaas cluster connect l4 http://127.0.0.1:8265 --token-file ~/l4.token --store gs://BUCKET/studies
    %%quanttaas model --data test_loader --on l4

"""


def command(*arguments: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Register a method as a command of ``%quanttaas``; parser, help and completion come from its arguments."""

    def register(method: Command) -> Command:
        for add in reversed(arguments):
            method = add(method)
        summary = str(method.__doc__)
        method = magic_arguments(f"quanttaas {method.__name__}")(method)
        method.summary = summary  # type: ignore[attr-defined]
        COMMANDS[method.__name__] = method
        return method

    return register


_NO_PANEL = (
    "The side panel is part of JupyterLab; %quanttaas studies lists the studies, %quanttaas attach ID shows one."
)
# JupyterLab runs the command that the element names; in other front ends the button does nothing.
_PANEL = (
    '<button data-commandlinker-command="quanttaas:open-panel" '
    'title="In JupyterLab: also under View, and in the left area">Open the side panel</button>'
)

STUDY = argument("id", metavar="ID", help="id of the study, or a variable that holds it")
TRIAL = argument("trial", metavar="TRIAL", help="name of the trial, such as prune50-int8")
STORE = argument("--store", metavar="URI", help="where studies live; the configured store when left out")


FORCE = argument("--force", action="store_true", help="take it from an engine that does not answer")
TRUSTED = argument("--trusted", action="store_true", help="run code of the person who wrote it, as you")
OUT_STUDY = argument("-o", "--out", metavar="VAR", help="variable to keep the study in")
OUT_MODEL = argument("-o", "--out", metavar="VAR", help="variable for the model; left out, the trial names it")


@magics_class
class QuantTaaSMagics(Magics):
    """Magics of the package; each command is one method."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._loaded: dict[tuple[str, str], tuple[str, Any]] = {}

    @command(
        argument("model", metavar="MODEL", help="variable that holds the model"),
        argument("--data", metavar="DATA", help="variable that holds the data that judges"),
        argument("--calibration", metavar="DATA", help="data that sets ranges; else a part of --train"),
        argument("--train", metavar="DATA", help="data that feeds recovery after pruning"),
        argument("--metric", metavar="METRIC", help="name of a metric, or a function of the notebook"),
        argument("--task", metavar="TASK", help="what the model does, such as regression; found out when left out"),
        argument("--labels", metavar="KEY[,KEY]", help="parts of a batch that are targets; found out when left out"),
        argument("--output", metavar="NAME", help="name or position of the output that is judged"),
        argument("--batch-dim", metavar="N", type=int, help="dimension of the samples in the inputs"),
        argument("--ignore-label", metavar="N", type=int, help="label that counts nowhere"),
        argument(
            "--postprocess", metavar="FUNCTION", help="function of the notebook: outputs to what the metric takes"
        ),
        argument("--on", metavar="CLUSTER", help="where to run; this machine when left out"),
        STORE,
        argument("--name", metavar="NAME", help="what to call the study"),
        OUT_STUDY,
        argument("--wait", action="store_true", help="block until the study ends"),
        argument("--dry-run", action="store_true", help="print the plan and start nothing"),
    )
    def compress(self, args: Namespace, recipe: str | None = None) -> None:
        """Start a study with the default recipe; ``%%quanttaas MODEL`` takes a recipe as its body."""
        _check_variable(args.out)
        request = {
            "model": self._value(args.model),
            "data": self._value(args.data),
            "recipe": self._recipe(recipe),
            "calibration": self._value(args.calibration),
            "train": self._value(args.train),
            "metric": self._metric(args.metric),
            "cluster": args.on,
            "store": args.store,
            "name": args.name,
            "task": args.task,
            "labels": args.labels,
            "output": args.output,
            "batch_dim": args.batch_dim,
            "ignore_label": args.ignore_label,
            "postprocess": self._value(args.postprocess),
        }
        if args.dry_run:
            display(api.plan(**request))
            return
        study = api.compress(**request)
        self._keep(args.out, study)
        study.show()
        if args.wait:
            _wait(study)

    @command(STORE)
    def studies(self, args: Namespace) -> Any:
        """List the studies of the store."""
        return api.studies(store=args.store)

    @command(argument("id", metavar="ID", nargs="?", help="id of the study; the newest when left out"), STORE)
    def status(self, args: Namespace) -> Any:
        """Show the status of a study."""
        study = self._study(args)
        study.look()
        return study

    @command(STUDY, STORE, OUT_STUDY)
    def attach(self, args: Namespace) -> None:
        """Show a study again, from any kernel, while it runs or after it ended."""
        _check_variable(args.out)
        study = self._study(args)
        self._keep(args.out, study)
        study.show()

    @command(STUDY, STORE)
    def cancel(self, args: Namespace) -> None:
        """Stop a study; what it measured so far stays."""
        study = self._study(args)
        state = study.state
        if state.has_ended:
            print(f"Study {study.id} has ended already: {state.status}.")
            return
        study.cancel()
        print(f"Cancelling study {study.id}; what it measured so far stays.")

    @command(STUDY, STORE, TRUSTED, FORCE)
    def resume(self, args: Namespace) -> None:
        """Continue a study that was cancelled or interrupted."""
        study = self._study(args)
        study.resume(**{name: True for name in ("trusted", "force") if getattr(args, name)})
        print(f"Resuming study {study.id}; %quanttaas attach {study.id} shows it.")

    @command(STUDY, STORE, argument("--engine", action="store_true", help="what the engine itself logged, as JSON"))
    def logs(self, args: Namespace) -> None:
        """Print the log of a study."""
        study = self._study(args)
        if args.engine:
            print(study.engine_log() or "The engine has logged nothing of this study, or its log is gone.")
            return
        lines = study.state.log
        print("\n".join(f"{clock(line.time)}  {line.text}" for line in lines) or "Nothing logged yet.")

    @command(STUDY, TRIAL, STORE, OUT_MODEL, TRUSTED)
    def load(self, args: Namespace) -> None:
        """Load a trial's model into the notebook: tensors in, tensors out."""
        _check_variable(args.out)
        study = self._study(args)
        model = study[args.trial].load(trusted=True) if args.trusted else study[args.trial].load()
        key = (study.id, args.trial)
        name = args.out or self._variable_for(key)
        self.shell.push({name: model})
        self._loaded[key] = (name, model)
        print(f"Loaded {args.trial}: call it as {name}(inputs).")

    @command(STUDY, TRIAL, argument("path", metavar="PATH", help="file to write"), STORE)
    def export(self, args: Namespace) -> None:
        """Write a trial's artifact to a file."""
        path = self._study(args)[args.trial].export(args.path)
        print(f"Wrote {path}")

    @command()
    def panel(self, args: Namespace) -> None:
        """Show how to open JupyterLab's side panel."""
        display({"text/html": _PANEL, "text/plain": _NO_PANEL}, raw=True)

    @command(
        argument(
            "action",
            metavar="ACTION",
            nargs="?",
            default="status",
            choices=cluster_commands.ACTIONS,
            help="start, stop, connect, status (the default) or template",
        ),
        *cluster_commands.ARGUMENTS,
    )
    def cluster(self, args: Namespace) -> None:
        """Show clusters; start, stop or connect one, or write a template for one."""
        print(cluster_commands.act(args))

    @no_var_expand
    @line_cell_magic
    def quanttaas(self, line: str, cell: str | None = None) -> Any:
        """Run a line or a cell of the magic; the help text replaces this docstring."""
        with _one_sentence():
            words = _split(line)
            return self._line(words) if cell is None else self._cell(words, cell)

    def _line(self, words: list[str]) -> Any:
        if not words or words[0] in ("-h", "--help", "help"):
            print(help_text())
            return None
        name, *rest = words
        if name not in COMMANDS:
            raise MagicError(self._unknown_command(name))
        if any(word in ("-h", "--help") and not isinstance(word, Quoted) for word in rest):
            print(COMMANDS[name].__doc__)
            return None
        return COMMANDS[name](self, _parse(name, rest))

    def _cell(self, words: list[str], body: str) -> None:
        if words[:1] == ["compress"] and len(words) > 1 and not words[1].startswith("-"):
            words = words[1:]
        if not words:
            raise MagicError("name the model: %%quanttaas MODEL --data DATA, with the recipe in the lines below")
        if words[0] in COMMANDS and words[0] not in self.shell.user_ns:
            raise MagicError(f"{words[0]} takes no recipe: write %quanttaas {words[0]}, with one % and no lines below")
        self.compress(_parse("compress", words), recipe=body if body.strip() else None)

    def _unknown_command(self, name: str) -> str:
        if name in self.shell.user_ns:
            return (
                f"{name!r} is a variable, not a command; write %quanttaas compress {name}, "
                f"or %%quanttaas {name} with a recipe in the lines below"
            )
        hint = did_you_mean(name, COMMANDS, f"commands are {', '.join(COMMANDS)}")
        return f"unknown command {name!r}; {hint}"

    def _value(self, text: str | None) -> Any:
        return None if text is None else resolve(text, self.shell.user_ns)

    def _recipe(self, body: str | None) -> Any:
        """Return the recipe, with a function of the notebook under ``recover`` if it names one."""
        if body is None:
            return None
        values = from_yaml(body)
        name = values.get("recover") if isinstance(values, Mapping) else None
        if isinstance(name, str) and name not in catalogue.names("recover") and callable(self.shell.user_ns.get(name)):
            return {**values, "recover": self.shell.user_ns[name]}
        return body

    def _metric(self, text: str | None) -> Any:
        if text is None or (text.isidentifier() and not _is_metric(self.shell.user_ns.get(text))):
            return text
        return self._value(text)

    def _study(self, args: Namespace) -> Any:
        if args.id is None:
            known = list(api.studies(store=args.store))
            if not known:
                raise NotFound("no study yet; start one with %quanttaas compress MODEL --data DATA")
            return api.open(max(known, key=lambda summary: summary.created).id, store=args.store)
        held = self.shell.user_ns.get(args.id)
        return held if isinstance(held, Study) else api.open(args.id, store=args.store)

    def _keep(self, name: str | None, study: Any) -> None:
        if name:
            self.shell.push({name: study})
        else:
            # Returning the study would show it again below the live view; this only assigns it to ``_``.
            self.shell.displayhook.update_user_ns(study)

    def _variable_for(self, key: tuple[str, str]) -> str:
        name, model = self._loaded.get(key, ("", None))
        if name and self.shell.user_ns.get(name) is model:
            return name
        return variable(key[1], self.shell.user_ns)


def help_text() -> str:
    """Return the text of ``%quanttaas?``: examples, commands, and the options of a study."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"    {name:<{width}}  {method.summary}" for name, method in COMMANDS.items())  # type: ignore[attr-defined]
    # Usage and options; the lines between repeat the summary.
    options = str(COMMANDS["compress"].__doc__).partition("positional arguments:")
    return (
        f"{_HELP}Commands (%quanttaas COMMAND -h says more)::\n\n{listed}\n\n"
        f"Arguments of compress and of %%quanttaas:\n\n{''.join(options[1:])}"
    )


def resolve(text: str, namespace: Mapping[str, Any]) -> Any:
    """Return the value of a name with attributes, constant indices and commas, such as ``loaders["test"]``.

    Raises:
        MagicError: The variable does not exist, or the text is an expression that would run code.
    """
    return _evaluate(parse(text), text, namespace)


def _evaluate(node: ast.expr, text: str, namespace: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        if node.id not in namespace:
            raise MagicError(_no_such_variable(node.id, namespace))
        return namespace[node.id]
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(item, text, namespace) for item in node.elts)
    if isinstance(node, ast.Attribute):
        return _reach(text, lambda: getattr(_evaluate(node.value, text, namespace), node.attr))
    if isinstance(node, ast.Subscript):
        index = ast.literal_eval(node.slice)
        return _reach(text, lambda: _evaluate(node.value, text, namespace)[index])
    return ast.literal_eval(node)


def _reach(text: str, get: Callable[[], Any]) -> Any:
    try:
        return get()
    except MagicError:
        raise
    except Exception as error:
        raise MagicError(f"{text!r} does not exist: {one_line(error)}") from None


def _no_such_variable(name: str, namespace: Mapping[str, Any]) -> str:
    visible = [known for known in namespace if not known.startswith("_")]
    return f"no such variable {name!r}; {did_you_mean(name, visible, 'run the cell that defines it first')}"


def _is_metric(value: Any) -> bool:
    # A class, such as torchmetrics.Accuracy after an import, stands for the metric of its name.
    return isinstance(value, tuple) or (callable(value) and not isinstance(value, type))


def _wait(study: Any) -> None:
    study.wait()
    if not study.state.has_ended:
        # wait() takes Ctrl-C as "stop waiting"; the following cells must not run as if the study had ended.
        interrupt = KeyboardInterrupt()
        _render(interrupt, f"KeyboardInterrupt: study {study.id} goes on; %quanttaas attach {study.id} shows it")
        raise interrupt


def _check_variable(name: str | None) -> None:
    if name is not None:
        check_variable(name)


def _parse(name: str, words: list[str]) -> Namespace:
    parser: Any = COMMANDS[name].parser  # type: ignore[attr-defined]
    # What stood in quotes is no option, whatever it begins with; the parser sees a name in its place.
    quoted = {f"\0{at}": word for at, word in enumerate(words) if isinstance(word, Quoted) and _is_like_option(word)}
    given = [f"\0{at}" if f"\0{at}" in quoted else word for at, word in enumerate(words)]
    try:
        args, rest = parser.parse_known_args(given)
    except UsageError as error:
        raise MagicError(f"{error}; see %quanttaas {name} -h") from None
    for key, value in vars(args).items():
        setattr(args, key, quoted.get(value, value) if isinstance(value, str) else value)
    if rest:
        rest = [quoted.get(item, item) for item in rest]
        hint = did_you_mean(rest[0], parser._option_string_actions, f"see %quanttaas {name} -h")
        raise MagicError(f"unknown argument {rest[0]!r}; {hint}")
    return cast(Namespace, args)


def _is_like_option(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\d+", word)


@contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except QuantTaaSError as error:
        # Not IPython's UsageError: it leaves a line on stderr but no error output, so nbval passes the cell and a
        # saved notebook does not show that it failed. An exception that renders itself stays an error everywhere.
        # Set on this instance only: in plain Python a traceback stays, as it shows the user's own line.
        _render(error, f"{type(error).__name__}: {error}")
        raise


def _render(error: BaseException, sentence: str) -> None:
    error._render_traceback_ = lambda: [f"\x1b[31m{sentence}\x1b[0m"]  # type: ignore[attr-defined]


QuantTaaSMagics.quanttaas.__doc__ = help_text()


def load(shell: InteractiveShell) -> None:
    """Register the magics and their completion, and start the engine in the background."""
    shell.register_magics(QuantTaaSMagics)
    parsers = {name: method.parser for name, method in COMMANDS.items()}  # type: ignore[attr-defined]
    completion.install(shell, parsers)
    threading.Thread(target=_warm, name="quanttaas-warm", daemon=True).start()


def unload(shell: InteractiveShell) -> None:
    """Undo ``load``, except that a running engine stays."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("quanttaas", None)
    completion.uninstall(shell)


def _warm() -> None:
    try:
        api.warm()
    except Exception:
        logging.getLogger(__name__).debug("warming the engine failed", exc_info=True)
