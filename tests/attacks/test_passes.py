"""rvlib.attacks.passes: every image through the network is counted, and nothing else changes."""

import torch

import rvlib as rv


def test_forward_and_backward_passes_are_counted_in_images(toys, batch):
    toy, (x, y) = toys().eval(), batch
    counting = rv.Passes(toy)
    with torch.no_grad():
        assert torch.equal(counting(x), toy(x))
    assert (counting.forwards, counting.backwards) == (4, 0)
    gradient = rv.input_gradient(counting, x[:3], y[:3])
    assert torch.equal(gradient, rv.input_gradient(toy, x[:3], y[:3]))
    assert (counting.forwards, counting.backwards) == (7, 3)
    x = x.requires_grad_()
    counting(x)  # a graph that nobody goes back through
    logits = counting(x)
    for k in (0, 1):  # two backward passes through one graph
        torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)
    assert (counting.forwards, counting.backwards) == (15, 11)
