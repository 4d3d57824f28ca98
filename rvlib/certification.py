"""Certify many images: votes on disk, by as many machines as there are, and what they certify."""

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from torch import Tensor, nn

from rvlib.checks import check_images, check_labels, check_network
from rvlib.device import arithmetic, digest_of, provenance
from rvlib.evaluation import floats
from rvlib.judge import check_given, network_digest
from rvlib.progress import progress
from rvlib.results import atomic_write, counts, missing, open_results, read, texts, write_shard
from rvlib.smoothing import Certificates, sample_under_noise
from rvlib.smoothing import statistics as st
from rvlib.smoothing.noise import seeded, to_grid
from rvlib.smoothing.votes import Noise

SHARD = 8
"""Images of a shard of rows: votes of one image may take minutes."""


def certify_images(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    sigma: float,
    *,
    out: Path | str,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    noise: Noise = "gaussian",
    batch_size: int | None = None,
    shard: tuple[int, int] = (1, 1),
    seed: int = 0,
) -> pd.DataFrame:
    """Certify images as ``certify`` does, each under noise of its own, and keep the votes.

    Parameters
    ----------
    model : nn.Module
        The base network: maps pixels in [0, 1], (B, C, H, W), to logits (B, K).
    data : (images, labels)
        Images (N, C, H, W), uint8 or float in [0, 1], and labels (N,), int64.
    sigma : float, > 0
        Standard deviation of the noise, in pixel units.
    out : Path or str
        Folder of the votes, ``rows/``, and of ``certificates.csv``; what is there is not drawn
        again, and another `alpha` draws nothing.
    n0, n : int, default=100, 100_000
        Votes of the selection and of the estimation.
    alpha : float, default=0.001
        Failure probability of one image's certificate.
    noise : {"gaussian", "grid"}, default="gaussian"
        As for ``sample_under_noise``.
    batch_size : int, optional
        Noisy copies a forward pass.
    shard : (k, n), default=(1, 1)
        Draw the votes of the k-th of n parts of the images; the rows do not depend on n.
    seed : int, default=0
        Of the noise.

    Returns
    -------
    DataFrame
        Columns ``index``, ``label``, ``prediction`` (-1: abstains) and ``radius``.

    Raises
    ------
    TypeError, ValueError
        If network, images and labels do not fit each other, or `n` can never certify.
    Incomplete
        If votes of other parts are missing; this part's are then written.
    """
    check_given(model, data)
    images, labels = data
    st.check_n(np.array(n), st.smallest_n_to_certify(alpha), "certify", alpha)
    st.check_sigma(sigma)
    if n0 < 1 or noise not in get_args(Noise):
        kinds = " or ".join(get_args(Noise))
        raise ValueError(f"n0={n0}, noise={noise!r}: give at least one vote, and {kinds} noise")
    x = floats(images[:1], model)
    check_images(x)
    check_network(model, x, check_labels(labels, images))
    if noise == "grid":
        to_grid(images if images.is_floating_point() else x)
    identity = {
        **{"network": network_digest(model), "data": digest_of(data)},
        **{"sigma": sigma, "n0": n0, "n": n, "noise": noise, "seed": seed},
        **{"arithmetic": arithmetic(x.device), "device": x.device.type},
    }
    folder = Path(out) / "rows"
    open_results(folder, identity)
    for part in progress(missing(folder, len(images), SHARD, shard), "certificates"):
        x = floats(images[part.start : part.stop], model)
        columns: dict[str, object] = {"label": labels[part.start : part.stop].tolist()}
        for column, votes, purpose in (("selection", n0, "selection"), ("counts", n, "estimation")):
            # A network may draw, too: by the images, as the noise.
            with seeded(x.device, seed, "network", purpose, part.start):
                drawn = sample_under_noise(
                    *(model, x, sigma, votes),
                    purpose=purpose,
                    seed=seed,
                    image_ids=part,
                    noise=noise,
                    batch_size=batch_size,
                )
            columns[column] = texts(drawn)
        write_shard(folder, part.start, columns, provenance(x.device))
    rows = read(folder, len(images)).frame
    found = st.certificate(counts(rows, "selection"), counts(rows, "counts"), alpha, sigma)
    table = rows[["index", "label"]].assign(prediction=found.prediction, radius=found.radius)
    atomic_write(Path(out) / "certificates.csv", table.to_csv(index=False).encode())
    return table


def summary(table: pd.DataFrame, sigma: float, n: int, alpha: float) -> str:
    """Certified accuracies in words, at radii a quarter apart, with 95 % intervals."""
    found = Certificates(table["prediction"].to_numpy(), table["radius"].to_numpy())
    radii = st.correct_radii(found, table["label"])
    lines = [f"{len(table)} images, noise {sigma:g}, {n} votes each, alpha = {alpha:g}"]
    for radius in np.arange(0, st.largest_radius(n, alpha, sigma), 0.25):
        right = round(st.certified_accuracy(radii, radius)[0] * len(table))
        low, high = (100 * end for end in st.wilson(right, len(table)))
        share = 100 * right / len(table)
        lines.append(f"l2 {radius:4.2f}  certified {share:5.1f} %  [{low:.1f}, {high:.1f}]")
    return "\n".join([*lines, f"mean certified radius {st.average_certified_radius(radii):.3f}"])
