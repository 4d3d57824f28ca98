"""What the notebooks use: the run they belong to, the library's own source, and figures."""

from rvlib.course.figures import show_attack as show_attack
from rvlib.course.figures import show_curves as show_curves
from rvlib.course.figures import show_figure as show_figure
from rvlib.course.figures import show_history as show_history
from rvlib.course.figures import show_votes as show_votes
from rvlib.course.notebook import finish as finish
from rvlib.course.notebook import say as say
from rvlib.course.notebook import show_accuracies as show_accuracies
from rvlib.course.notebook import source as source
from rvlib.course.notebook import start as start
