"""rvlib.types: what is refused, and that each refusal is one line."""

import pytest
import torch

from rvlib.types import check_images, check_labels

PIXELS = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def altered(value):
    x = PIXELS.clone()
    x[1, 2, 3, 0] = value
    return x


@pytest.mark.parametrize(
    "x",
    [
        PIXELS,
        PIXELS.double(),
        PIXELS.half(),
        PIXELS.contiguous(memory_format=torch.channels_last),
        PIXELS.clone().requires_grad_(True),
        altered(0.0),
        altered(1.0),
        altered(1 + 5e-7),  # float32 rounding of 255/255 computed another way
        altered(-5e-7),
    ],
)
def test_pixels_pass(x):
    check_images(x)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (altered(1.01), ValueError, r"\[.*1\.01\], not in \[0, 1\]"),
        (altered(-0.01), ValueError, r"\[-0\.01, .*\], not in \[0, 1\]"),
        (altered(float("nan")), ValueError, "nan"),
        (altered(float("inf")), ValueError, "inf"),
        (PIXELS * 255, ValueError, "divide by 255"),
        ((PIXELS * 255).byte(), TypeError, "uint8.*to_float"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), TypeError, "int64"),
        (PIXELS.numpy(), TypeError, "ndarray"),
        ([0.5], TypeError, "list"),
        (PIXELS[0], ValueError, r"\(3, 4, 4\), not \(B, C, H, W\)"),
        (PIXELS[:0], ValueError, r"\(0, 3, 4, 4\)"),
        (PIXELS.flatten(1), ValueError, r"\(2, 48\)"),
    ],
)
def test_other_images_are_refused_in_one_line(x, error, words):
    with pytest.raises(error, match=words) as refusal:
        check_images(x)
    assert "\n" not in str(refusal.value)


def test_labels_pass():
    check_labels(torch.tensor([0, 9]), PIXELS)


@pytest.mark.parametrize(
    ("y", "error", "words"),
    [
        (torch.tensor([0]), ValueError, r"\(1,\) for 2 images"),
        (torch.tensor([0, 1, 2]), ValueError, r"\(3,\) for 2 images"),
        (torch.tensor([[0], [1]]), ValueError, r"\(2, 1\)"),
        (torch.tensor(0), ValueError, r"\(\)"),
        (torch.tensor([0, -1]), ValueError, "label -1 is negative"),
        (torch.tensor([0.0, 1.0]), TypeError, "float32"),
        (torch.tensor([0.0, 1.0], dtype=torch.float64), TypeError, "float64"),
        (torch.tensor([0, 1], dtype=torch.int32), TypeError, "int32"),
        (torch.tensor([0, 1], dtype=torch.uint8), TypeError, "uint8"),
        (torch.tensor([0, 1], dtype=torch.uint64), TypeError, "uint64"),
        ([0, 1], TypeError, "list"),
    ],
)
def test_other_labels_are_refused_in_one_line(y, error, words):
    with pytest.raises(error, match=words) as refusal:
        check_labels(y, PIXELS)
    assert "\n" not in str(refusal.value)
