"""The network that votes under noise: its counts, its answer, its certificate."""

from rvlib.smoothing.algorithms import certify as certify
from rvlib.smoothing.algorithms import predict as predict
from rvlib.smoothing.certificate import ABSTAIN as ABSTAIN
from rvlib.smoothing.certificate import certificate as certificate
from rvlib.smoothing.certificate import certified_radius as certified_radius
from rvlib.smoothing.certificate import largest_radius as largest_radius
from rvlib.smoothing.certificate import lower_confidence_bound as lower_confidence_bound
from rvlib.smoothing.certificate import vote as vote
from rvlib.smoothing.sequential import certify_at as certify_at
from rvlib.smoothing.sequential import evidence as evidence
from rvlib.smoothing.votes import sample_under_noise as sample_under_noise
