"""What the notebooks use: their run, the library's own source, figures, explorers, exercises.

``from rvlib import course`` loads a part when it is first used.
"""

import importlib
from typing import Any

_PUBLIC = {
    "notebook": ["start", "source", "say", "show_accuracies"],
    "figures": [
        *["show_attack", "show_balls", "show_certified", "show_curves", "show_figure"],
        *["show_history", "show_progress", "show_votes"],
    ],
    "exercises": [
        *["check_fgsm", "check_eight_bit", "check_l2_projection", "check_pgd"],
        *["check_training_loss", "check_collapse_epoch", "check_noisy_copies", "check_vote"],
        *["check_lower_bound", "check_radius", "check_certified_accuracy", "check_wilson"],
        *["check_n_fgsm", "check_average_radius"],
        *["check_masked_attack", "check_noisy_attack", "check_detector_attack"],
    ],
}
_EXPLORERS = [
    *["fgsm", "pgd", "attacks", "training", "mixing", "smoothing", "certification", "results"],
    *["noise", "modern"],
]
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
_HOME |= {f"explore_{name}": f"explorers.{name}" for name in _EXPLORERS}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rvlib.course' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rvlib.course.{_HOME[name]}"), name)
