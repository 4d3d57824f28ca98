"""What does the defender minimise?  Functions ``objective(model, x, y, generator) -> Loss``."""

from rvlib.objectives.adversarial import adversarial as adversarial
from rvlib.objectives.adversarial import mixed as mixed
from rvlib.objectives.base import Loss as Loss
from rvlib.objectives.base import Objective as Objective
from rvlib.objectives.gaussian import gaussian as gaussian
from rvlib.objectives.standard import standard as standard
