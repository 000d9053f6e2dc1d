"""What memory stages are expected to take."""

import pytest

from quanttaas_jupyter.planning.needs import at_least, needed

KINDS = ("preview", "sensitivity", "prune", "screen", "recover", "export", "quantize", "evaluate", "latency")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_stage_has_a_need_that_grows_with_the_model_and_is_no_less_than_the_least(kind: str) -> None:
    small, large = needed(kind, 10**6, {}), needed(kind, 10**9, {})
    assert small < large
    assert at_least(kind, 10**9) <= large


def test_a_peak_that_was_seen_counts_more_than_a_guess() -> None:
    assert needed("evaluate", 10**9, {"evaluate": 5 * 10**9}) > 5 * 10**9
    assert needed("export", 10**9, {"evaluate": 5 * 10**9}) == needed("export", 10**9, {})
