"""The exercises of the notebooks: each check names the mistake."""

from rvlib.course.exercises.certification import check_lower_bound as check_lower_bound
from rvlib.course.exercises.certification import check_radius as check_radius
from rvlib.course.exercises.defences import check_detector_attack as check_detector_attack
from rvlib.course.exercises.defences import check_masked_attack as check_masked_attack
from rvlib.course.exercises.defences import check_noisy_attack as check_noisy_attack
from rvlib.course.exercises.exercise import Check
from rvlib.course.exercises.fgsm import check_eight_bit as check_eight_bit
from rvlib.course.exercises.fgsm import check_fgsm as check_fgsm
from rvlib.course.exercises.modern import check_average_radius as check_average_radius
from rvlib.course.exercises.modern import check_n_fgsm as check_n_fgsm
from rvlib.course.exercises.pgd import check_l2_projection as check_l2_projection
from rvlib.course.exercises.pgd import check_pgd as check_pgd
from rvlib.course.exercises.results import check_certified_accuracy as check_certified_accuracy
from rvlib.course.exercises.results import check_wilson as check_wilson
from rvlib.course.exercises.smoothing import check_noisy_copies as check_noisy_copies
from rvlib.course.exercises.smoothing import check_vote as check_vote
from rvlib.course.exercises.training import check_collapse_epoch as check_collapse_epoch
from rvlib.course.exercises.training import check_training_loss as check_training_loss

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
