"""torch.compile takes a round of an attack, of a vote and of a training whole, as one graph.

In a process of its own: PyTorch's compiler is slow to import, and what compiles a gradient starts
threads, after which no other test could fork.
"""

from multiprocessing import get_context
from typing import Any

import pytest
import torch

from rvlib.attacks import log_odds
from rvlib.attacks.pgd import ascend
from rvlib.objectives import standard
from rvlib.smoothing.votes import tally
from rvlib.threat_models import L2, Linf, PixelL2
from rvlib.training import _Batches, _Epochs, _State
from tests.networks import make_toy

IMAGES, LABELS = torch.linspace(0, 1, 4 * 48).view(4, 3, 4, 4).sin(), torch.tensor([0, 1, 2, 1])
CPU = torch.device("cpu")


def both(function: Any) -> tuple[Any, Any]:
    """The function in one graph, and as it is."""
    return torch.compile(function, fullgraph=True, backend="eager"), function


def climb(threat: Any) -> None:
    model = make_toy().eval()

    def steps(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ascend(model, x, y, x, threat, 0.05, None, steps=2, loss=log_odds)

    found, expected = (f(IMAGES, LABELS) for f in both(steps))
    torch.testing.assert_close(found, expected)


def vote(batch_size: int) -> None:
    draws = torch.randn(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    network = make_toy().eval()
    with torch.no_grad():
        found, expected = (f(network, IMAGES, draws, batch_size) for f in both(tally))
    assert torch.equal(found[0], expected[0])
    assert found[0].sum(1).tolist() == [20] * 4
    torch.testing.assert_close(found[1], expected[1])


def learn(autocast: torch.dtype | None) -> None:
    results = []
    for which in (0, 1):
        model = make_toy().train()
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        state, batches = _State(model, sgd, 0, CPU), _Batches((IMAGES, LABELS), 4, CPU)
        epochs = _Epochs(state, standard, batches, None, autocast, 1, False)
        torch.manual_seed(0)  # of dropout
        of_batch = both(epochs.gradient)[which](model, IMAGES, LABELS, 0.0)
        results.append([of_batch, *(p.grad for p in model.parameters()), *model.buffers()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def with_gradients(work: Any, argument: Any) -> bool:
    """Let the compiler trace gradients, where this PyTorch can; whether it could."""
    import torch._dynamo

    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        return False
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        work(argument)
    return True


@pytest.fixture(scope="module")
def child():
    with get_context("fork").Pool(1) as pool:
        yield pool


@pytest.mark.parametrize(
    ("work", "argument"),
    [
        *[(climb, Linf(0.1)), (climb, L2(0.5)), (climb, PixelL2(0.15))],
        *[(vote, 80), (vote, 20), (learn, None), (learn, torch.bfloat16)],
    ],
)
def test_it_is_one_graph_and_gives_the_same(child, work, argument):
    if not child.apply(with_gradients, (work, argument)):
        pytest.skip("this PyTorch cannot trace gradients")
