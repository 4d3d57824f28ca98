"""One explorer a notebook: what the hand moves and what the eye sees."""

from rvlib.course.explorers.fgsm import explore_fgsm as explore_fgsm
