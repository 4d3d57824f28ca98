"""What the notebooks use: the run they belong to, the library's own source, figures, exercises."""

from rvlib.course.exercises import check_certified_accuracy as check_certified_accuracy
from rvlib.course.exercises import check_collapse_epoch as check_collapse_epoch
from rvlib.course.exercises import check_eight_bit as check_eight_bit
from rvlib.course.exercises import check_fgsm as check_fgsm
from rvlib.course.exercises import check_l2_projection as check_l2_projection
from rvlib.course.exercises import check_lower_bound as check_lower_bound
from rvlib.course.exercises import check_noisy_copies as check_noisy_copies
from rvlib.course.exercises import check_pgd as check_pgd
from rvlib.course.exercises import check_radius as check_radius
from rvlib.course.exercises import check_training_loss as check_training_loss
from rvlib.course.exercises import check_vote as check_vote
from rvlib.course.exercises import check_wilson as check_wilson
from rvlib.course.figures import show_attack as show_attack
from rvlib.course.figures import show_balls as show_balls
from rvlib.course.figures import show_curves as show_curves
from rvlib.course.figures import show_figure as show_figure
from rvlib.course.figures import show_history as show_history
from rvlib.course.figures import show_votes as show_votes
from rvlib.course.notebook import finish as finish
from rvlib.course.notebook import say as say
from rvlib.course.notebook import show_accuracies as show_accuracies
from rvlib.course.notebook import source as source
from rvlib.course.notebook import start as start
