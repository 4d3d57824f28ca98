"""The mistakes that people make, each caught once, where a public function is entered."""

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from rvlib.device import fork_rng
from rvlib.inference import Wrapper, eval_mode, logits_of
from rvlib.threat_models import L2, ThreatModel

ROUNDING = 1e-6
"""How far a pixel may lie outside [0, 1]: float32 rounding, no more."""

APART = 0.05
"""Share of the largest logit that rounding never changes an answer by, not in half precision."""


class Doubt(UserWarning):
    """What is probably a mistake, and makes a verdict worth little."""


_gentle: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Networks seen to leave their images as they were."""

_independent: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Networks seen to answer to each image alone."""

passed: ContextVar[dict[nn.Module, nn.Module] | None] = ContextVar("passed", default=None)
"""Networks that passed the checks, as they are to be used; None outside of ``checked_once``."""


@contextmanager
def checked_once() -> Iterator[None]:
    """Check images and networks at the first call alone, in a loop of attacks or votes.

    A check waits for the device.  That no attack gives NaN is left to the loop.
    """
    token = passed.set({})
    try:
        yield
    finally:
        passed.reset(token)


def check_images(x: Tensor) -> None:
    """Refuse anything but a batch of pixels in [0, 1]."""
    if not isinstance(x, Tensor):
        raise TypeError(f"images are {type(x).__name__}, not a tensor: use torch.as_tensor")
    if x.dim() == 3:
        raise ValueError(f"images have shape {tuple(x.shape)}: add the batch dimension, x[None]")
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"images have shape {tuple(x.shape)}, not (B, C, H, W) without zeros")
    if not x.is_floating_point():
        raise TypeError(f"images are {x.dtype}, not float in [0, 1]: use rvlib.to_float")
    low, high = torch.stack(x.detach().aminmax()).tolist()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN fails this, too
        raise ValueError(
            f"images lie in [{low:.3g}, {high:.3g}], not in [0, 1]: divide by 255; normalisation "
            "belongs into the network, nn.Sequential(rvlib.Normalize(mean, std), network)"
        )


def check_labels(y: Tensor, x: Tensor) -> int:
    """Refuse anything but one class index per image; return the largest."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"labels are {kind}, not an int64 tensor: use torch.as_tensor(y).long()")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels have shape {tuple(y.shape)} for {len(x)} images: one per image")
    if y.device != x.device:
        raise ValueError(f"labels are on {y.device}, images on {x.device}: use y.to(x.device)")
    low, high = torch.stack(y.aminmax()).tolist()
    if low < 0:
        raise ValueError(f"label {low} is negative: classes are 0, ..., K-1")
    return int(high)


def check_batch(batch: Any) -> tuple[Any, Any]:
    """Refuse what a loader gives if it is no pair of images and labels."""
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        found = "no batch" if batch is None else type(batch).__name__
        raise TypeError(f"the loader gives {found}, not batches (images, labels)")
    return batch[0], batch[1]


def check_mask(mask: Tensor, y: Tensor, name: str) -> None:
    """Refuse anything but one bool per image."""
    if (mask.shape, mask.dtype) != (y.shape, torch.bool):
        told = f"{name} is {mask.dtype} of shape {tuple(mask.shape)}"
        raise ValueError(f"{told}: one bool per image")


def check_network(model: nn.Module, x: Tensor, largest_label: int = -1) -> nn.Module:
    """Show the network one image; refuse what is no network for these images and labels.

    An error of the network's own code passes through untouched.  Returns the network, behind
    ``OnCopies`` if it overwrites its images.
    """
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise TypeError(f"the network is {kind}, not an instance of torch.nn.Module")
    try:
        with eval_mode(model), torch.inference_mode(False), torch.no_grad(), fork_rng(x.device):
            image = x[:1].clone()
            version = image._version
            logits = model(image)
    except RuntimeError as error:
        if (hint := _mismatch(model, x, str(error))) is not None:
            raise ValueError(hint) from error
        raise
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network returned {shape} for one image: return logits (B, K)")
    if not logits.is_floating_point():
        raise ValueError(f"the network returned {logits.dtype} logits: return float ones")
    if logits.shape[1] < 2:
        raise ValueError("the network has a single logit z: return torch.cat((zeros, z), 1)")
    if largest_label >= logits.shape[1]:
        raise ValueError(
            f"label {largest_label} is no class of this network: its {logits.shape[1]} classes are "
            f"0, ..., {logits.shape[1] - 1}"
        )
    answer = logits[0].tolist()
    low, high, total = min(answer), max(answer), sum(answer)
    if total != total:
        raise ValueError("the network gave NaN: its training diverged, or its numbers overflow")
    sigmoids = high <= 1 and logits.shape[1] > 3  # of few classes, logits may lie there by chance
    if low >= 0 and (sigmoids or abs(total - 1) < 1e-4):
        told = "the network seems to return probabilities: return logits"
        warnings.warn(told, Doubt, stacklevel=4)
    # A change through ``.data`` counts as no version; comparing waits for the device.
    if image._version != version or not (model in _gentle or torch.equal(image, x[:1])):
        return OnCopies(model)
    _gentle.add(model)
    return model


class OnCopies(Wrapper):
    """A network that overwrites its images, safe to use: it gets copies of them."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a copy of the images."""
        logits: Tensor = self.model(x.clone())
        return logits


def _mismatch(model: nn.Module, x: Tensor, said: str) -> str | None:
    """Name the device, precision, layout or size that does not fit, None if all do."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    if weights and x.device not in {p.device for p in weights}:
        return f"the network is on {weights[0].device}, images on {x.device}: use .to(device)"
    if weights and x.dtype not in {p.dtype for p in weights}:
        told = f"the network computes in {weights[0].dtype}, images are {x.dtype}"
        return f"{told}: use x.to(dtype), or model.float()"
    if x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return f"images have shape {tuple(x.shape)}: channels come first, x.permute(0, 3, 1, 2)"
    if "Given groups" in said or "mat1 and mat2" in said:
        return f"the network does not take images of shape {tuple(x.shape[1:])}: {said}"
    return None


def check_voters(model: nn.Module, x: Tensor) -> None:
    """Check the network and the images of a vote, and that its votes are independent."""
    known = passed.get()
    if known is None or model not in known:
        check_images(x)
        checked = check_network(model, x)
        if known is not None:
            known[model] = checked
    if model in _independent:
        return
    brighter = torch.linspace(0, 1, 4, device=x.device, dtype=x.dtype)
    copies = x[:1] + brighter[:, None, None, None]
    with eval_mode(model), fork_rng(x.device):
        together, alone = logits_of(model, copies), logits_of(model, copies, 1)
        # Votes look for NaN themselves.
        if not together.isnan().any() and apart(together, alone, APART):
            again = logits_of(model, copies)  # a random network's answers differ in any case
            if not apart(together, again, APART):
                raise ValueError(
                    "the network's answers depend on the other images of the batch (BatchNorm "
                    "without running statistics?): its votes are not independent"
                )
            same = logits_of(model, x[:1].repeat(32, 1, 1, 1))
            if not apart(same, same[:1].expand_as(same), APART):
                raise ValueError(
                    "the network is random, and draws once for all images of a batch: its votes "
                    "are not independent. Let it draw for each image"
                )
    _independent.add(model)


def apart(one: Tensor, other: Tensor, share: float) -> bool:
    """Whether answers (B, K) differ by more than a share of the largest difference of two logits.

    Neither what all logits have in common counts, nor classes left out by minus infinity; NaN does.
    """
    top, a, b = one.amax(), *(z - z.amax(1, keepdim=True) for z in (one, other))
    spread = a.where(a.isfinite(), 0).abs().max()
    rounding = 16 * torch.finfo(one.dtype).eps * top.abs()
    difference = torch.where(a == b, 0, a - b).abs().max()
    return not bool(difference <= share * spread + rounding)


def check_attack(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, targets: Tensor | None = None
) -> nn.Module:
    """Check the arguments that attacks share; return the network as ``check_network`` does."""
    if isinstance(threat, type) or not hasattr(threat, "project"):
        raise TypeError(f"threat={threat!r} is no ball: write rvlib.Linf(8 / 255), say")
    if isinstance(threat.eps, Tensor):
        if threat.eps.shape != x.shape[:1]:
            raise ValueError(f"eps has shape {tuple(threat.eps.shape)} for {len(x)} images")
    elif isinstance(threat, L2) and threat.eps > 0.1 * x[0].numel() ** 0.5:
        told = f"L2({threat.eps:g}) is more than a tenth of the image's diagonal: forgotten /255?"
        warnings.warn(told, Doubt, stacklevel=3)
    known = passed.get()
    if known is not None and model in known:
        return known[model]
    check_images(x)
    largest = check_labels(y, x)
    if targets is not None:
        if not isinstance(targets, Tensor) or targets.dim() not in (1, 2) or not targets.numel():
            raise TypeError("targets are no tensor of class indices of shape (B,) or (B, T)")
        columns = targets.unbind(1) if targets.dim() == 2 else (targets,)
        largest = max(largest, *(check_labels(column, x) for column in columns))
    checked = check_network(model, x, largest)
    if known is not None:
        known[model] = checked
    return checked
