"""Explorers of the notebooks: what the hand moves and what the eye sees."""

from rvlib.course.explorers.attacks import explore_attacks as explore_attacks
from rvlib.course.explorers.certification import explore_certification as explore_certification
from rvlib.course.explorers.fgsm import explore_fgsm as explore_fgsm
from rvlib.course.explorers.mixing import explore_mixing as explore_mixing
from rvlib.course.explorers.modern import explore_modern as explore_modern
from rvlib.course.explorers.noise import explore_noise as explore_noise
from rvlib.course.explorers.pgd import explore_pgd as explore_pgd
from rvlib.course.explorers.results import explore_results as explore_results
from rvlib.course.explorers.smoothing import explore_smoothing as explore_smoothing
from rvlib.course.explorers.training import explore_training as explore_training
