import numpy as np
import torch
from torch import nn

from quanttaas_jupyter.bundle.data import open_source
from quanttaas_jupyter.techniques.prune import PruneJob
from quanttaas_jupyter.techniques.prune.importance import of_groups
from quanttaas_jupyter.techniques.prune.tracing import trace
from quanttaas_jupyter.techniques.prune.units import Units


class Tagger(nn.Module):
    """Scores for five classes at each of seven places; classes last, or in dimension 1."""

    def __init__(self, class_dim: int) -> None:
        super().__init__()
        self.inner, self.scores, self.class_dim = nn.Linear(4, 12), nn.Linear(12, 5), class_dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.scores(torch.relu(self.inner(x)))
        return found if self.class_dim == 2 else found.transpose(1, 2)


def taylor(class_dim: int, targets: torch.Tensor) -> np.ndarray:
    torch.manual_seed(0)
    model = Tagger(class_dim).eval()
    x = torch.randn(64, 7, 4, generator=torch.Generator().manual_seed(1))
    examples = open_source((x, targets), "--calibration", 64, 0).read()
    units = Units(model, trace(model, examples.inputs, examples.head(2).batches[0], set()))
    job = PruneJob(model, 0.5, examples, (), lambda line: None, class_dim=class_dim)
    return of_groups("taylor", job, units)[0]


def test_what_a_unit_does_to_the_right_class_does_not_depend_on_where_classes_lie() -> None:
    targets = torch.randint(0, 5, (64, 7), generator=torch.Generator().manual_seed(2))
    assert np.allclose(taylor(1, targets), taylor(2, targets), rtol=1e-4)


def test_labels_that_do_not_count_do_not_move_importance() -> None:
    targets = torch.randint(0, 5, (64, 7), generator=torch.Generator().manual_seed(2))
    padded = targets.clone()
    padded[:, 3:] = -100
    found = taylor(2, padded)
    assert np.isfinite(found).all()
    assert not np.allclose(found, taylor(2, targets), rtol=1e-2)
