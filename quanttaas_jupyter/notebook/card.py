"""HTML fragments about a study and its trials; all text of users is escaped here."""

from __future__ import annotations

from html import escape

from pydantic import ValidationError

from ..core.frontier import recommended_trial
from ..core.recipe import Budget, Prune, Recipe
from ..core.state import StudyState, TrialState
from ..views import format as fmt
from ..views import study_heading, trial_card
from ..views.legend import Key, legend_groups
from ..views.scene import Scene, runtimes, shown
from ..views.summary import summary

_SHAPES = {
    "circle": '<circle cx="6" cy="6" r="4.2"/>',
    "square": '<rect x="2.2" y="2.2" width="7.6" height="7.6"/>',
    "diamond": '<path d="M6 .8 10.6 6 6 11.2 1.4 6Z"/>',
    "triangle-up": '<path d="M6 1.4 11 10.4 1 10.4Z"/>',
    "triangle-down": '<path d="M6 10.6 1 1.6 11 1.6Z"/>',
    "cross": '<path d="M4.4 1h3.2v3.4H11v3.2H7.6V11H4.4V7.6H1V4.4h3.4Z"/>',
}


def heading(state: StudyState) -> str:
    """Return the name and id of a study, where it runs, and what it understood."""
    name, where = escape(state.name or "study"), escape(study_heading.place(state))
    understood = f'<div class="qt-understood qt-dim">{escape(state.understanding)}</div>' if state.understanding else ""
    return f'<b class="qt-name">{name}</b> <span class="qt-dim">study {escape(state.id)} · {where}</span>{understood}'


def headline(state: StudyState) -> str:
    """Return the outcome of a study, or its problem and what to do; an empty string if it runs well."""
    return "".join(_notice(notice) for notice in study_heading.notices(state))


def progress(state: StudyState) -> str:
    """Return a progress bar with its words: trials done and failed, running stages, time left."""
    bar = study_heading.progress(state)
    parts = "".join(f'<i class="{part.kind}" style="width:{part.percent:.1f}%"></i>' for part in bar.parts)
    aria = (
        f' role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{bar.percent:.0f}" '
        f'aria-label="{bar.label}"'
        if bar.label
        else ""
    )
    told = " · ".join(
        f'<span class="qt-bad">{escape(word.text)}</span>' if word.kind == "bad" else escape(word.text)
        for word in bar.words
    )
    return f'<div class="qt-progress"><div class="qt-bar"{aria}>{parts}</div><span>{told}</span></div>'


def legend(state: StudyState) -> str:
    """Return the legend of the colours, markers and marks that occur in this study."""
    groups = ["".join(_key(key) for key in group) for group in legend_groups(state)]
    return '<div class="qt-legend">' + "".join(f"<span>{group}</span>" for group in groups if group) + "</div>"


def details(state: StudyState, trial: TrialState) -> str:
    """Return the card of one trial: configuration, numbers with intervals, layers, warnings."""
    parts = ['<div aria-live="polite">', f'<div class="qt-config">{escape(fmt.configuration(trial.config))}</div>']
    if trial.error:
        parts.append(f'<div class="qt-notice qt-bad" role="status"><b>Failed.</b> {_reason(trial)}</div>')
    if open_question := trial_card.uncertainty(state, trial):
        parts.append(_notice(open_question))
    if rows := trial_card.numbers(state, trial):
        parts.append(f"<table>{''.join(_row(fact) for fact in rows)}</table>")
    elif not trial.error:
        parts.append(f'<div class="qt-dim">{trial_card.pending(trial)}</div>')
    if lines := trial_card.layers(trial):
        parts.append(f'<div class="qt-layers">{"<br>".join(_layers(line) for line in lines)}</div>')
    parts += [_notice(warning) for warning in trial_card.warnings(trial)]
    if error := trial_card.export_error(trial):
        parts.append(f'<div class="qt-dim">{error}</div>')
    return "".join([*parts, "</div>"])


def failures(state: StudyState) -> str:
    """Return the failed trials and those cut early with their reasons, folded; an empty string if there are none."""
    parts = []
    for status, said in (("failed", "failed"), ("cut", "cut early")):
        trials = [trial for trial in state.trials.values() if trial.status == status]
        items = "".join(f"<li><b>{escape(trial.name)}</b> {_reason(trial)}</li>" for trial in trials)
        if items:
            parts.append(
                f'<details class="qt-failed"><summary>{len(trials)} {said}</summary><ul>{items}</ul></details>'
            )
    return "".join(parts)


def log_line(state: StudyState) -> str:
    """Return the last line of the log with its time; an empty string once the study has finished."""
    if not state.log or state.status == "finished":
        return ""
    line = state.log[-1]
    kind = {"error": "qt-bad", "warning": "qt-warn"}.get(line.level, "")
    return (
        f'<div class="qt-log"><time>{fmt.clock(line.time)}</time> <span class="{kind}">{escape(line.text)}</span></div>'
    )


def notes(state: StudyState) -> str:
    """Return the notes of a study, one line each."""
    return "".join(f'<div class="qt-note">{escape(study_heading.capital(note))}</div>' for note in state.notes)


def hint(state: StudyState) -> str:
    """Return the text of the card while no trial is selected."""
    if not shown(state):
        return '<div class="qt-dim">Points appear as trials are measured.</div>'
    best = recommended_trial(state)
    best_so_far = f"<div>{escape(study_heading.capital(summary(state)))}.</div>" if best else ""
    return f'{best_so_far}<div class="qt-dim">Select a point to see its numbers, load it or save it.</div>'


def narrowed(recipe: Recipe, trial: TrialState) -> Recipe | None:
    """Return a recipe for this one trial, or None if its pruning is unknown here, as from a newer engine."""
    prune = trial.config.prune
    try:
        pruning = Prune(method=prune.method, amount=prune.amount) if prune else Prune(amount=0.0)
    except ValidationError:
        return None
    return recipe.model_copy(
        update={
            "prune": (pruning,),
            "quantize": (trial.config.quantize or "none",),
            "runtime": (trial.config.runtime or recipe.runtime[0],),
            "search": "grid",
            "budget": Budget(),
        }
    )


def recipe_block(text: str) -> str:
    """Return a button that shows and copies the recipe in the browser, so that it works while the kernel is busy."""
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
    """Return a sentence for below the card's buttons."""
    return f'<div class="qt-message{" qt-bad" if bad else ""}">{escape(text)}</div>' if text else ""


def title(state: StudyState, trial: TrialState) -> str:
    """Return the trial's marker as in the chart, and its name."""
    return f"{_glyph(fmt.marker(trial.config, runtimes(state)), fmt.color(trial.config))} <b>{escape(trial.name)}</b>"


def caption(scene: Scene) -> str:
    """Return the line above the chart: the vertical axis, the better direction, and the points outside of the view."""
    number = scene.outside
    outside = f'<span class="qt-warn">{number} outside the view, close the card to see</span>' if number else ""
    return (
        f'<div class="qt-over"><span>{escape(scene.y_label)}</span>{outside}'
        f'<span class="qt-better">{escape(scene.better)}</span></div>'
    )


def _row(fact: trial_card.Measurement) -> str:
    label, number, extra = map(escape, fact)
    return f'<tr><th scope="row">{label}</th><td class="n">{number}</td><td>{extra}</td></tr>'


def _layers(line: trial_card.Layers) -> str:
    names = ", ".join(f"<code>{escape(name)}</code>" for name in line.names)
    return f"{escape(line.words)}{names}{line.more}"


def _reason(trial: TrialState) -> str:
    why, hint_ = map(escape, trial_card.reason(trial))
    return f"{why} <span>{hint_}</span>" if hint_ else why


def _key(key: Key) -> str:
    mark = {
        "color": lambda: _glyph("circle", key.value),
        "marker": lambda: _glyph(key.value, "currentColor"),
        "uncertain": lambda: _glyph("circle", "none", "qt-dash"),
        "preview": lambda: _glyph("circle", "none", "qt-hollow"),
        "frontier": lambda: '<svg width="16" height="12"><path class="qt-stair" d="M0 9H8V3H16"/></svg>',
        "interval": lambda: '<svg width="8" height="12"><path class="qt-whisker" d="M4 0V12"/></svg>',
    }[key.kind]
    return f'<span class="qt-key">{mark()}{escape(key.words)}</span>'


def _glyph(shape: str, color: str, kind: str = "qt-glyph") -> str:
    return f'<svg class="{kind}" width="12" height="12" fill="{color}" aria-hidden="true">{_SHAPES[shape]}</svg>'


def _notice(notice: study_heading.Notice) -> str:
    lead = f"<b>{escape(notice.lead)}</b>" if notice.lead else ""
    content = " ".join(filter(None, (lead, escape(notice.text))))
    kind = "qt-verdict" if notice.kind == "verdict" else f"qt-notice qt-{notice.kind}"
    return f'<div class="{kind}" role="status">{content}</div>'
