import pytest

from tests.architectures.matrix import FAILS, OK, all_cells, cells_of
from tests.architectures.zoo import ZOO, Architecture

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("architecture", ZOO, ids=lambda architecture: architecture.name)
def test_every_technique_works(architecture: Architecture) -> None:
    assert not [f"{cell.technique}: {cell.found}" for cell in cells_of(architecture) if cell.status == FAILS]


@pytest.mark.timeout(900)
def test_at_least_85_percent_of_forty_and_more_architectures_times_techniques_work() -> None:
    cells = all_cells()
    assert len(ZOO) >= 40
    assert sum(cell.status == OK for cell in cells) >= 0.85 * len(cells)
