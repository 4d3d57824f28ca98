"""rvlib.frozen: a network comes back exactly as it was lent."""

import pytest
import torch
from torch import nn

from rvlib.frozen import frozen, taking


def modes(model):
    return [module.training for module in model.modules()]


def wanted(model):
    return [parameter.requires_grad for parameter in model.parameters()]


def test_inside_everything_is_in_evaluation_mode_and_out_of_the_graph(toy, batch):
    with frozen(toy) as lent:
        assert lent is toy
        assert not any(modes(toy))
        assert not any(wanted(toy))
        assert not toy(batch[0]).requires_grad


def test_each_submodule_and_parameter_comes_back_as_it_was(toy):
    before = modes(toy), wanted(toy)
    assert len(set(before[0])) == len(set(before[1])) == 2  # mixed: "all on" would show
    with frozen(toy):
        pass
    assert (modes(toy), wanted(toy)) == before


def test_a_network_in_evaluation_mode_stays_there(toy):
    with frozen(toy.eval()):
        pass
    assert not any(modes(toy))


def test_it_comes_back_after_an_error_too(toy):
    before = modes(toy), wanted(toy)
    with pytest.raises(KeyError), frozen(toy):
        raise KeyError
    assert (modes(toy), wanted(toy)) == before


def test_lending_nests(toy):
    before = modes(toy), wanted(toy)
    with frozen(toy):
        with frozen(toy):
            pass
        assert not any(modes(toy) + wanted(toy))
    assert (modes(toy), wanted(toy)) == before


def test_running_statistics_and_weights_are_untouched(toy, batch):
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    with frozen(toy):
        toy(batch[0])
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


# --- images that do not fit -----------------------------------------------------------------------


def test_images_that_do_not_fit_are_told_apart_from_other_failures(toy, batch):
    x, _ = batch
    cause = RuntimeError("matrices of other sizes")
    with (
        pytest.raises(ValueError, match="takes no images of shape") as caught,
        taking(toy, x[..., 1:]),
    ):
        raise cause
    assert caught.value.__cause__ is cause
    with pytest.raises(RuntimeError, match=r"^matrices") as other, taking(toy, x):
        raise cause
    assert other.value is cause


@pytest.mark.parametrize("words", ["CUDA out of memory.", "can't allocate memory: 9 bytes"])
def test_a_device_without_memory_says_nothing_about_the_images(batch, words):
    class Full(nn.Module):
        def forward(self, x):
            raise RuntimeError(words)

    model = Full()
    with pytest.raises(RuntimeError, match=words), taking(model, batch[0]):
        model(batch[0])


def test_the_network_is_asked_only_once_something_has_failed(toy, batch):
    def asked(*_):
        raise AssertionError

    toy.register_forward_hook(asked)
    toy.train()
    with taking(toy, batch[0]):
        pass
    assert toy.training


def test_a_network_that_fails_without_a_word_is_named_by_its_kind_of_error(batch):
    class Unwritten(nn.Module):
        def forward(self, x):
            raise NotImplementedError

    with (
        pytest.raises(ValueError, match=r"made for \(NotImplementedError\)"),
        taking(Unwritten(), batch[0]),
    ):
        Unwritten()(batch[0])
