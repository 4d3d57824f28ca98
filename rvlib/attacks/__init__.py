"""How does the adversary do it?  Functions ``attack(model, x, y, threat, ...) -> x_adv``."""

from rvlib.attacks.apgd import apgd as apgd
from rvlib.attacks.autoattack import autoattack as autoattack
from rvlib.attacks.autoattack import autoattack_stages as autoattack_stages
from rvlib.attacks.fab import fab as fab
from rvlib.attacks.fgsm import fgsm as fgsm
from rvlib.attacks.gradient import dlr as dlr
from rvlib.attacks.gradient import input_gradient as input_gradient
from rvlib.attacks.gradient import log_odds as log_odds
from rvlib.attacks.gradient import margin as margin
from rvlib.attacks.gradient import targeted_dlr as targeted_dlr
from rvlib.attacks.gradient import towards as towards
from rvlib.attacks.passes import Passes as Passes
from rvlib.attacks.pgd import pgd as pgd
from rvlib.attacks.robust_mask import robust_mask as robust_mask
from rvlib.attacks.smoothed import smoothed_pgd as smoothed_pgd
from rvlib.attacks.square import square as square
