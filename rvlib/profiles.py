"""How much of the experiments to run: smoke, course or full."""

from dataclasses import dataclass

from rvlib.recipes import FURTHER_ATTACKS, RECIPES, REPORT_ATTACKS, SIGMA, SLOWER, gaussian_name


@dataclass(frozen=True)
class Profile:
    """The numbers that make a run longer or shorter; what is computed is the same.

    Parameters
    ----------
    name : str
        ``smoke``, ``course`` or ``full``.
    trains : bool
        Train every model from scratch; otherwise the shipped weights are used.
    heldout : int
        Of the report's 1024 images, how many to attack.
    test : int
        Of the 10,000 official test images, how many to attack (the second table); 0 for none.
    attacks : tuple of str
        Attacks on every network.
    votes : int
        Votes of the smoothed network's answer under attack.
    certified : int
        Of the report's 1024 images, how many to certify at each noise level, and to let the
        smoothed networks of the other noise levels vote on.
    ns : tuple of int
        Numbers of votes of Figure 1 a; the largest is that of Figure 1 b.
    seeds : dict of str to int
        How many training seeds of a model are measured; 1 where it is not named.
    """

    name: str
    trains: bool
    heldout: int
    test: int
    attacks: tuple[str, ...]
    votes: int
    certified: int
    ns: tuple[int, ...]
    seeds: dict[str, int]

    def models(self) -> list[tuple[str, int]]:
        """List the models with their training seeds, in the order to train them in."""
        firsts = [(name, 0) for name in RECIPES]
        return firsts + [
            (name, seed) for name, count in self.seeds.items() for seed in range(1, count)
        ]


SEEDS = {"standard": 5, SLOWER: 5, gaussian_name(SIGMA): 3, "pgd-linf-at": 3}
"""How many training seeds a run from scratch has, where it is not one."""

SHIPPED_SEEDS = SEEDS
"""How many of them have their weights in ``report/models`` and are measured by the others."""

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "smoke",
            trains=False,
            heldout=32,
            test=32,
            attacks=REPORT_ATTACKS + FURTHER_ATTACKS[:2],
            votes=100,
            certified=8,
            ns=(100, 1000),
            seeds=SHIPPED_SEEDS,
        ),
        Profile(
            "course",
            trains=False,
            heldout=1024,
            test=0,
            attacks=REPORT_ATTACKS + FURTHER_ATTACKS,
            votes=1000,
            certified=128,
            ns=(100, 1000, 10_000),
            seeds=SHIPPED_SEEDS,
        ),
        Profile(
            "full",
            trains=True,
            heldout=1024,
            test=10_000,
            attacks=REPORT_ATTACKS + FURTHER_ATTACKS,
            votes=1000,
            certified=1024,
            ns=(100, 1000, 10_000, 100_000),
            seeds=SEEDS,
        ),
    )
}
"""The three profiles by name."""

DEFENCES = (
    "standard",
    gaussian_name(SIGMA),
    "pgd-pixel-l2-at",
    "pgd-linf-at",
    "mixed-at",
)
"""The networks of the report's Table 1, in its order; the smoothed one comes after them."""


def find_profile(name: str) -> Profile:
    """Look a profile up by name.

    Parameters
    ----------
    name : str
        A key of ``PROFILES``.

    Returns
    -------
    Profile
        Its numbers.

    Raises
    ------
    ValueError
        If there is no such profile; the message lists those there are.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: choose from {', '.join(PROFILES)}")
    return PROFILES[name]
