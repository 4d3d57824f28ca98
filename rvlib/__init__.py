"""Adversarial robustness you can run, read and check: attacks, training, smoothing, certificates.

``import rvlib as rv`` gives every name below, each from the file that defines it; PyTorch is loaded
when the first of them is used.
"""

import importlib
from typing import Any

__version__ = "1.0.0"

_PUBLIC = {
    "threat_models": ["Linf", "L2", "PixelL2", "ThreatModel"],
    "attacks": [
        *["fgsm", "pgd", "smoothed_pgd", "square", "robust_mask"],
        *["apgd", "fab", "autoattack", "autoattack_stages", "Passes"],
        *["input_gradient", "log_odds", "margin", "dlr", "towards", "targeted_dlr"],
    ],
    "inference": ["eval_mode"],
    "smoothing": [
        *["predict", "certify", "certify_at", "sample_under_noise", "vote", "certificate"],
        *["lower_confidence_bound", "certified_radius", "largest_radius", "log_e_value", "ABSTAIN"],
        *["certified_accuracy", "average_certified_radius", "wilson", "prediction_interval"],
    ],
    "models": [
        *["lenet", "resnet18", "Normalize", "MODELS", "register_model"],
        *["load_weights", "save_weights"],
    ],
    "data": ["DATASETS", "load", "to_float", "image_folder"],
    "objectives": [
        *["standard", "gaussian", "adversarial", "mixed"],
        *["trades", "fgsm_rs", "n_fgsm", "nuat", "consistency"],
    ],
    "training": ["fit"],
    "evaluation": [
        *["predictions", "vote_counts", "nested_counts", "counts_inside"],
        *["checked_attack", "from_torchattacks", "from_foolbox"],
    ],
    "judge": ["evaluate"],
    "sanity_checks": ["sanity"],  # a file of the function's name would hide it
    "experiments": ["ATTACKS", "RECIPES", "PROFILES"],
    "pipeline": ["Run"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rvlib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rvlib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
