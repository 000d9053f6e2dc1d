"""Pieces of HTML that say what a study and its trials are. Whatever a person typed is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from pydantic import ValidationError

from ..recipe import Budget, Prune, Recipe
from ..state import StudyState, TrialState, seconds_left
from ..views import format as fmt
from ..views.scene import Scene, is_percent, max_drop, shown
from ..views.summary import is_open_question, recommended, summary

_SHAPES = {
    "circle": '<circle cx="6" cy="6" r="4.2"/>',
    "square": '<rect x="2.2" y="2.2" width="7.6" height="7.6"/>',
    "diamond": '<path d="M6 .8 10.6 6 6 11.2 1.4 6Z"/>',
    "triangle-up": '<path d="M6 1.4 11 10.4 1 10.4Z"/>',
    "cross": '<path d="M4.4 1h3.2v3.4H11v3.2H7.6V11H4.4V7.6H1V4.4h3.4Z"/>',
}
_METHODS = {"": "not pruned", "structured": "structured", "unstructured": "unstructured", "2:4": "2:4"}


def heading(state: StudyState) -> str:
    """Which study this is, and where it runs."""
    where = "this machine" if state.cluster == "local" else state.cluster
    slots = f" ({state.slots} slot{'s' * (state.slots != 1)})" if state.slots else ""
    verb = "running on" if state.status == "running" else "on"
    name = escape(state.name or "study")
    return (
        f'<b class="qt-name">{name}</b> <span class="qt-dim">study {escape(state.id)} · '
        f"{verb} {escape(where)}{slots}</span>"
    )


def headline(state: StudyState) -> str:
    """The sentence on top: what came out, or what is wrong and what to do; empty while all is well."""
    parts = []
    if state.unreachable_since is not None:
        seen = fmt.clock(state.unreachable_since)
        parts.append(_notice("warn", f"The store cannot be reached: last seen {seen}, trying again."))
    if state.status == "finished":
        sentence = state.recommendation or f"Finished: {summary(state)}."
        parts.append(f'<div class="qt-verdict" role="status"><b>{escape(_capital(sentence))}</b></div>')
    elif state.status == "failed":
        reason = state.error or state.message or "no reason was recorded; see the log"
        parts.append(_notice("bad", f"<b>The study failed.</b> {escape(_capital(reason))}"))
    elif state.status == "cancelled":
        reason = f" {escape(_capital(state.message))}" if state.message else ""
        parts.append(_notice("calm", f"<b>Cancelled.</b>{reason} Resume goes on from here."))
    elif state.status == "interrupted":
        reason = _capital(state.message or "the engine stopped; resume() goes on from here")
        parts.append(_notice("warn", f"<b>Interrupted.</b> {escape(reason)}."))
    elif state.status == "queued":
        since = f" since {fmt.clock(state.created)}" if state.created else ""
        message = _capital(state.message or "waiting for an engine")
        parts.append(_notice("calm", f"{escape(message)}{since}."))
    elif state.waiting and state.waiting_since is not None:
        since = fmt.clock(state.waiting_since)
        parts.append(_notice("calm", f"Waiting for {escape(state.waiting)} since {since}."))
    return "".join(parts)


def progress(state: StudyState) -> str:
    """A bar and its words: trials done and failed, what runs, the time left."""
    total = len(state.trials)
    if not total:
        return _sending(state)
    measured = sum(trial.status == "measured" for trial in state.trials.values())
    words = [f"{state.done} of {total} trials"]
    if state.status == "running" and state.running:
        words.append(f"{len(state.running)} running")
    if state.failed:
        words.append(f'<span class="qt-bad">{state.failed} failed</span>')
    if state.cut:
        words.append(f"{state.cut} cut early")
    left = fmt.time_left(seconds_left(state))
    if left:
        words.append(left)
    elif state.status != "running":
        words.append(escape(state.status))
    if state.has_ended and state.ended and state.started:
        words.append(f"took {fmt.duration(state.ended - state.started)}")
    if state.cost:
        words.append(f"{fmt.money(state.cost)} so far" if not state.has_ended else f"cost {fmt.money(state.cost)}")
    if state.stages_cached:
        words.append(f"{state.stages_cached} stages from the cache")
    now = 100 * (state.done + state.failed + state.cut) / total
    parts = "".join(
        f'<i class="{kind}" style="width:{100 * number / total:.1f}%"></i>'
        for kind, number in (("done", state.done), ("cut", state.cut), ("half", measured), ("bad", state.failed))
    )
    return (
        f'<div class="qt-progress"><div class="qt-bar" role="progressbar" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{now:.0f}" aria-label="trials done">{parts}</div>'
        f"<span>{' · '.join(words)}</span></div>"
    )


def _sending(state: StudyState) -> str:
    """The bar of a study without trials: how much of model and data was sent."""
    if state.sent is None:
        return f'<div class="qt-progress"><div class="qt-bar"></div><span>{escape(state.status)}</span></div>'
    return (
        '<div class="qt-progress"><div class="qt-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * state.sent:.0f}" aria-label="sent">'
        f'<i class="done" style="width:{100 * state.sent:.1f}%"></i></div>'
        f"<span>{100 * state.sent:.0f} % sent</span></div>"
    )


def legend(state: StudyState) -> str:
    """The colours, shapes and marks that occur in this study, and only those."""
    trials = shown(state)
    colors = dict.fromkeys(str(trial.config.get("quantize", "none")) for trial in state.trials.values())
    methods = dict.fromkeys(fmt.method(trial.config) for trial in state.trials.values())
    allowed = max_drop(state)
    groups = []
    if colors:
        groups.append(
            "".join(
                _key(_glyph("circle", fmt.COLORS.get(name, fmt.UNKNOWN_COLOR)), _precision(name)) for name in colors
            )
        )
    if any(methods):
        groups.append(
            "".join(
                _key(_glyph(fmt.MARKERS.get(name, "cross"), "currentColor"), _METHODS.get(name, name))
                for name in methods
            )
        )
    marks = []
    if allowed is not None and any(is_open_question(trial, allowed) for trial in trials):
        marks.append(_key(_glyph("circle", "none", "qt-dash"), "uncertain: interval crosses the goal"))
    if state.preview:
        marks.append(_key(_glyph("circle", "none", "qt-hollow"), "eager PyTorch"))
    if trials:
        marks.append(_key('<svg width="16" height="12"><path class="qt-stair" d="M0 9H8V3H16"/></svg>', "frontier"))
    if any(t.metrics.get("metric_low") is not None for t in trials):
        marks.append(_key('<svg width="8" height="12"><path class="qt-whisker" d="M4 0V12"/></svg>', "95 % interval"))
    groups.append("".join(marks))
    return '<div class="qt-legend">' + "".join(f"<span>{group}</span>" for group in groups if group) + "</div>"


def facts_table(state: StudyState, trial: TrialState) -> str:
    """The card of one trial: configuration, numbers with intervals and n, layers, file, warnings."""
    metrics, percent = trial.metrics, is_percent(state)
    parts = ['<div aria-live="polite">', f'<div class="qt-config">{escape(fmt.configuration(trial.config))}</div>']
    if trial.error:
        parts.append(_failure(trial))
    allowed = max_drop(state)
    if allowed is not None and is_open_question(trial, allowed):
        limit = fmt.allowance(allowed, percent)
        parts.append(_notice("calm", f"Uncertain: it may lose more than {limit}, the interval says."))
    rows = _numbers(state, trial)
    if rows:
        parts.append(f"<table>{''.join(rows)}</table>")
    elif not trial.error:
        parts.append(f'<div class="qt-dim">{_waiting(trial)}</div>')
    layers = _layers(trial)
    if layers:
        parts.append(f'<div class="qt-layers">{layers}</div>')
    parts += [_notice("warn", escape(_capital(warning))) for warning in trial.warnings]
    if metrics.get("export_error") is not None and trial.is_baseline:
        parts.append(f'<div class="qt-dim">differs from eager PyTorch by at most {metrics["export_error"]:.2g}</div>')
    return "".join([*parts, "</div>"])


def failures(state: StudyState) -> str:
    """The failed trials and those cut early, with their reasons, folded away; empty where there are none."""
    parts = []
    for status, words in (("failed", "failed"), ("cut", "cut early")):
        found = [trial for trial in state.trials.values() if trial.status == status]
        items = "".join(f"<li><b>{escape(trial.name)}</b> {_reason(trial)}</li>" for trial in found)
        if items:
            parts.append(
                f'<details class="qt-failed"><summary>{len(found)} {words}</summary><ul>{items}</ul></details>'
            )
    return "".join(parts)


def log_line(state: StudyState) -> str:
    """The last line of the log, with its time; empty once the study has finished."""
    if not state.log or state.status == "finished":
        return ""
    line = state.log[-1]
    kind = {"error": "qt-bad", "warning": "qt-warn"}.get(line.level, "")
    return (
        f'<div class="qt-log"><time>{fmt.clock(line.time)}</time> <span class="{kind}">{escape(line.text)}</span></div>'
    )


def notes(state: StudyState) -> str:
    """What the study wants to be known, a line each."""
    return "".join(f'<div class="qt-note">{escape(_capital(note))}</div>' for note in state.notes)


def hint(state: StudyState) -> str:
    """What the card says while nothing is selected."""
    if not shown(state):
        return '<div class="qt-dim">Points appear as trials are measured.</div>'
    best = recommended(state)
    found = f"<div>{escape(_capital(summary(state)))}.</div>" if best else ""
    return f'{found}<div class="qt-dim">Select a point to see its numbers, load it or save it.</div>'


def narrowed(recipe: Recipe, trial: TrialState) -> Recipe | None:
    """The recipe that makes this one trial; None where a newer engine made a pruning unknown here."""
    prune = trial.config.get("prune") or {"amount": 0.0}
    try:
        pruning = Prune(**{key: prune[key] for key in ("method", "amount") if key in prune})
    except ValidationError:
        return None
    return recipe.model_copy(
        update={
            "prune": (pruning,),
            "quantize": (str(trial.config.get("quantize", "none")),),
            "runtime": (str(trial.config.get("runtime", recipe.runtime[0])),),
            "search": "grid",
            "budget": Budget(),
        }
    )


def recipe_block(text: str) -> str:
    """A button that shows the recipe and copies it, in the browser alone: it works while the kernel is busy."""
    copy = (
        "const d=this.closest('details');const t=d.querySelector('pre').textContent;"
        "const s=d.querySelector('.qt-copied');"
        "if(!d.open&&navigator.clipboard)"
        "navigator.clipboard.writeText(t).then(()=>{s.textContent='copied';},()=>{});"
    )
    return (
        f'<details class="qt-recipe"><summary class="qt-button" onclick="{escape(copy)}">Copy recipe</summary>'
        f'<pre tabindex="0">{escape(text)}</pre><span class="qt-copied qt-dim" role="status"></span></details>'
    )


def message(text: str, bad: bool = False) -> str:
    """A sentence under the card's buttons."""
    return f'<div class="qt-message{" qt-bad" if bad else ""}">{escape(text)}</div>' if text else ""


def title(trial: TrialState) -> str:
    """The trial's own mark, as on the chart, and its name."""
    return f"{_glyph(fmt.marker(trial.config), fmt.color(trial.config))} <b>{escape(trial.name)}</b>"


def caption(scene: Scene) -> str:
    """What stands above the chart: the vertical axis, what better means, what lies outside the view."""
    number = scene.outside
    outside = f'<span class="qt-warn">{number} outside the view, close the card to see</span>' if number else ""
    return (
        f'<div class="qt-over"><span>{escape(scene.y_label)}</span>{outside}'
        f'<span class="qt-better">{escape(scene.better)}</span></div>'
    )


def _numbers(state: StudyState, trial: TrialState) -> list[str]:
    metrics, percent = trial.metrics, is_percent(state)
    name = str(state.metric.get("name", "metric"))
    rows: list[str] = []

    def row(label: str, number: str, more: Sequence[str] = ()) -> None:
        extra = ", ".join(escape(part) for part in more if part)
        rows.append(f'<tr><th scope="row">{escape(label)}</th><td class="n">{escape(number)}</td><td>{extra}</td></tr>')

    def known(key: str) -> bool:
        return metrics.get(key) is not None

    low, high = metrics.get("metric_low"), metrics.get("metric_high")
    if known("metric"):
        ends = fmt.interval(low, high, percent)
        row(name, fmt.value(metrics["metric"], percent, low, high), [f"({ends})" if ends else ""])
    if known("drop") and not trial.is_baseline:
        low, high = metrics.get("drop_low"), metrics.get("drop_high")
        ends = fmt.drop_interval(low, high, percent)
        row("drop", fmt.drop(metrics["drop"], percent, low, high), [f"({ends})" if ends else ""])
    if known("samples"):
        row("samples", fmt.count(metrics["samples"]))
    if known("agreement") and not trial.is_baseline:
        row("agreement", fmt.value(metrics["agreement"], True))
    if known("size_bytes"):
        row("size", fmt.size(metrics["size_bytes"]), [_against(trial, fmt.smaller(metrics.get("size_ratio")))])
    if known("size_gzip_bytes") and fmt.method(trial.config) == "unstructured":
        row("gzipped", fmt.size(metrics["size_gzip_bytes"]), ["for a download"])
    if known("latency_ms"):
        row("latency", fmt.latency(metrics["latency_ms"]), [_against(trial, fmt.faster(metrics.get("speedup")))])
        if known("latency_p90_ms"):
            row("latency p90", fmt.latency(metrics["latency_p90_ms"]))
    elif trial.status == "measured":
        row("latency", "", ["waits for a quiet machine"])
    if known("gpu_memory_bytes"):
        row("GPU memory", fmt.size(metrics["gpu_memory_bytes"]))
    if known("params"):
        share = metrics.get("pruned_share")
        row("parameters", fmt.count(metrics["params"]), [f"{100 * share:.3g} % removed" if share else ""])
    if known("macs"):
        row("MACs", fmt.count(metrics["macs"]))
    if known("sqnr_db"):
        row("SQNR", f"{metrics['sqnr_db']:.1f} dB".replace("-", fmt.MINUS))
    return rows


def _layers(trial: TrialState) -> str:
    metrics, lines = trial.metrics, []
    done, possible = metrics.get("quantized_layers"), metrics.get("quantizable_layers")
    if possible and done is not None and trial.config.get("quantize") != "none":
        lines.append(f"{escape(str(trial.config.get('quantize')))} in {done:.0f} of {possible:.0f} layers")
    kept = [str(name) for name in (trial.artifact or {}).get("kept") or ()]
    if kept:
        more = f" and {len(kept) - 6} more" if len(kept) > 6 else ""
        names = ", ".join(f"<code>{escape(name)}</code>" for name in kept[:6])
        lines.append(f"left in high precision: {names}{more}")
    lines += [f"{escape(name)}: {escape(str(value))}" for name, value in _choices(trial)]
    return "<br>".join(lines)


def _choices(trial: TrialState) -> list[tuple[str, Any]]:
    """What techniques chose by themselves, as far as it fits a line."""
    choices = (trial.artifact or {}).get("choices") or {}
    return [(name, value) for name, value in choices.items() if isinstance(value, (str, int, float))]


def _waiting(trial: TrialState) -> str:
    return "It was not measured: the study ended before." if trial.status == "cancelled" else "Not measured yet."


def _failure(trial: TrialState) -> str:
    return _notice("bad", f"<b>Failed.</b> {_reason(trial)}")


def _reason(trial: TrialState) -> str:
    error = trial.error or {}
    reason, hint_ = escape(str(error.get("reason", "unknown"))), escape(str(error.get("hint") or ""))
    return f"{_capital(reason)}{f' <span>Try: {hint_}</span>' if hint_ else ''}"


def _against(trial: TrialState, comparison: str) -> str:
    return "" if trial.is_baseline else comparison


def _precision(name: str) -> str:
    return "not quantized" if name == "none" else name


def _key(mark: str, words: str) -> str:
    return f'<span class="qt-key">{mark}{escape(words)}</span>'


def _glyph(shape: str, color: str, kind: str = "qt-glyph") -> str:
    return f'<svg class="{kind}" width="12" height="12" fill="{color}" aria-hidden="true">{_SHAPES[shape]}</svg>'


def _notice(kind: str, content: str) -> str:
    return f'<div class="qt-notice qt-{kind}" role="status">{content}</div>'


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
