"""The exercises of the notebooks: each check names the mistake."""

# mypy: implicit-reexport

from rvlib.course.exercises.certification import check_lower_bound, check_radius
from rvlib.course.exercises.defences import (
    check_detector_attack,
    check_masked_attack,
    check_noisy_attack,
)
from rvlib.course.exercises.exercise import Check
from rvlib.course.exercises.fgsm import check_eight_bit, check_fgsm
from rvlib.course.exercises.modern import check_average_radius, check_n_fgsm
from rvlib.course.exercises.pgd import check_l2_projection, check_pgd
from rvlib.course.exercises.results import check_certified_accuracy, check_wilson
from rvlib.course.exercises.smoothing import check_noisy_copies, check_vote
from rvlib.course.exercises.training import check_collapse_epoch, check_training_loss

NOTEBOOKS: dict[str, tuple[Check, ...]] = {
    "01_fgsm": (check_fgsm, check_eight_bit),
    "02_pgd": (check_l2_projection, check_pgd),
    "03_adversarial_training": (check_training_loss, check_collapse_epoch),
    "04_randomized_smoothing": (check_noisy_copies, check_vote),
    "05_certification": (check_lower_bound, check_radius),
    "06_results": (check_wilson, check_certified_accuracy),
    "07_state_of_the_art": (check_n_fgsm, check_average_radius),
    "break_a_defence": (check_masked_attack, check_noisy_attack, check_detector_attack),
}
"""The exercises of every notebook, and the tasks of ``docs/teaching``."""
