from typing import Any

import pytest

import quanttaas_jupyter as qt
from quanttaas_jupyter.core.state import StudyState, apply
from quanttaas_jupyter.notebook.sensitivity import sensitivity_figure


def ranked(layers: int = 3) -> StudyState:
    state = StudyState(id="s")
    for seq, of in enumerate(("prune", "quantize@onnxruntime"), start=1):
        ranking = [[f"layer{i}", 5.0 + i] for i in range(layers)]
        state = apply(state, {"seq": seq, "time": 0.0, "type": "sensitivity", "of": of, "ranking": ranking})
    return state


def test_every_ranking_has_a_panel_with_the_most_sensitive_layer_on_top() -> None:
    left, right = sensitivity_figure(ranked()).axes
    assert "pruned by half" in left.get_title(loc="left")
    assert "int8 on onnxruntime" in right.get_title(loc="left")
    assert [label.get_text() for label in left.get_yticklabels()] == ["layer0", "layer1", "layer2"]
    bars: list[Any] = list(left.patches)
    assert [bar.get_width() for bar in bars] == [5.0, 6.0, 7.0]
    top, bottom = left.get_ylim()[1], left.get_ylim()[0]
    assert top < 0 < bottom


def test_of_many_layers_the_worst_are_shown_and_the_number_is_said() -> None:
    axes = sensitivity_figure(ranked(50)).axes[0]
    assert len(axes.patches) == 30
    assert "the worst 30 of 50" in axes.get_title(loc="left")


def test_a_study_that_ranked_nothing_says_what_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    study = object.__new__(qt.Study)
    study.id = "s"
    monkeypatch.setattr(qt.Study, "state", StudyState(id="s"))
    with pytest.raises(qt.QuantTaaSError, match="'search: auto', quantize: mixed and a prune 'spread' do"):
        study.sensitivity()
