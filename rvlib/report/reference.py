"""The numbers printed in the report that this project reproduces, and what is known about them."""

from rvlib.recipes import LOWER_LEARNING_RATE, SLOWER

REPORT_TABLE1: dict[str, dict[str, float]] = {
    "standard": {"natural": 58.2, "fgsm": 3.81, "pgd-linf": 0.29, "pgd-pixel-l2": 0.29},
    "gaussian-0.25": {"natural": 62.16, "fgsm": 26.17, "pgd-linf": 21.77, "pgd-pixel-l2": 25.16},
    "pgd-pixel-l2-at": {"natural": 54.78, "fgsm": 25.0, "pgd-linf": 20.99, "pgd-pixel-l2": 23.82},
    "pgd-linf-at": {"natural": 54.41, "fgsm": 28.32, "pgd-linf": 25.58, "pgd-pixel-l2": 19.33},
    "mixed-at": {"natural": 51.76, "fgsm": 28.41, "pgd-linf": 26.46, "pgd-pixel-l2": 27.15},
    "smoothed-0.25": {"natural": 59.71, "fgsm": 38.1, "pgd-linf": 37.68, "pgd-pixel-l2": 39.8},
}
"""Accuracy in percent by defence and attack (the report's Table 1; its "PGD l-2" is per pixel)."""

REPORT_TABLE1[SLOWER] = REPORT_TABLE1["standard"]  # the report prints no learning rate

TITLES = {
    "standard": "Basic classifier",
    "gaussian-0.25": "Basic classifier + noisy training",
    "pgd-pixel-l2-at": "Adversarial training (PGD pixel-l2)",
    "pgd-linf-at": "Adversarial training (PGD l∞)",
    "mixed-at": "Mixed adversarial training",
    SLOWER: f"Basic classifier, learning rate {LOWER_LEARNING_RATE}",
    "pgd-l2-at": "Adversarial training (PGD l2)",
    "smoothed-0.25": "Randomized smoothing",
    "natural": "Natural",
    "fgsm": "FGSM",
    "pgd-linf": "PGD l∞",
    "pgd-pixel-l2": "PGD pixel-l2 (the report's “l2”)",
    "pgd-l2-small": "PGD l2 at the report's radius",
    "pgd-l2": "PGD l2",
    "pgd-linf-50x5": "PGD l∞, 50 steps, 5 random starts",
    "vote-fgsm": "Attack on the vote, FGSM's ball",
    "vote-pgd-linf": "Attack on the vote, l∞",
    "vote-pgd-pixel-l2": "Attack on the vote, pixel-l2",
    "vote-pgd-l2": "Attack on the vote, l2",
}
"""Names in print of defences and attacks."""
