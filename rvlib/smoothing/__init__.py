"""The network that votes under noise: its counts, its answer, its certificate."""

from rvlib.smoothing.certify import certify as certify
from rvlib.smoothing.certify import certify_at as certify_at
from rvlib.smoothing.certify import predict as predict
from rvlib.smoothing.noise import stream as stream
from rvlib.smoothing.statistics import ABSTAIN as ABSTAIN
from rvlib.smoothing.statistics import Certificates as Certificates
from rvlib.smoothing.statistics import average_certified_radius as average_certified_radius
from rvlib.smoothing.statistics import certificate as certificate
from rvlib.smoothing.statistics import certified_accuracy as certified_accuracy
from rvlib.smoothing.statistics import certified_radius as certified_radius
from rvlib.smoothing.statistics import correct_radii as correct_radii
from rvlib.smoothing.statistics import largest_radius as largest_radius
from rvlib.smoothing.statistics import log_e_value as log_e_value
from rvlib.smoothing.statistics import lower_confidence_bound as lower_confidence_bound
from rvlib.smoothing.statistics import prediction_interval as prediction_interval
from rvlib.smoothing.statistics import vote as vote
from rvlib.smoothing.statistics import wilson as wilson
from rvlib.smoothing.votes import sample_under_noise as sample_under_noise
