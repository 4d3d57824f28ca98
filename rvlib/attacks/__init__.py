"""How does the adversary do it?  Functions ``attack(model, x, y, threat, ...) -> x_adv``."""

from rvlib.attacks.base import Attack as Attack
from rvlib.attacks.fgsm import fgsm as fgsm
from rvlib.attacks.pgd import pgd as pgd
from rvlib.attacks.smoothed import smoothed_pgd as smoothed_pgd
from rvlib.attacks.square import square as square
from rvlib.attacks.withstand import withstands as withstands
from rvlib.attacks.withstand import withstands_sweep as withstands_sweep
