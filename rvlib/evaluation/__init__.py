"""What is the network worth?  Accuracy under attack, votes and certificates, image by image."""

from rvlib.evaluation.empirical import attacked_batches as attacked_batches
from rvlib.evaluation.empirical import predictions as predictions
