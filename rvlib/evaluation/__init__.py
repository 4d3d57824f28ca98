"""What is the network worth?  Accuracy under attack, votes and certificates, image by image."""

from rvlib.evaluation.accuracy import Accuracy as Accuracy
from rvlib.evaluation.accuracy import accuracy as accuracy
from rvlib.evaluation.accuracy import votes as votes
from rvlib.evaluation.certified import average_certified_radius as average_certified_radius
from rvlib.evaluation.certified import certified_accuracy as certified_accuracy
from rvlib.evaluation.certified import correct_radii as correct_radii
from rvlib.evaluation.empirical import attacked_batches as attacked_batches
from rvlib.evaluation.empirical import predictions as predictions
from rvlib.evaluation.external import ExternalAttack as ExternalAttack
from rvlib.evaluation.external import from_callable as from_callable
from rvlib.evaluation.external import from_foolbox as from_foolbox
from rvlib.evaluation.external import from_torchattacks as from_torchattacks
from rvlib.evaluation.inside import changed as changed
from rvlib.evaluation.inside import votes_inside as votes_inside
from rvlib.evaluation.sanity import Check as Check
from rvlib.evaluation.sanity import sanity as sanity
from rvlib.evaluation.smoothed import nested_votes as nested_votes
from rvlib.evaluation.smoothed import votes_under_attack as votes_under_attack
