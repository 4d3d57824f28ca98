"""A run of the experiments: train, measure, read; what is on disk is not computed again."""

from rvlib.pipeline.everything import measurements as measurements
from rvlib.pipeline.machine import one_thread as one_thread
from rvlib.pipeline.rows import Accuracy as Accuracy
from rvlib.pipeline.rows import accuracy as accuracy
from rvlib.pipeline.rows import certificates as certificates
from rvlib.pipeline.rows import interval as interval
from rvlib.pipeline.run import USUAL as USUAL
from rvlib.pipeline.run import Run as Run
from rvlib.pipeline.run import repository as repository
from rvlib.pipeline.sanity_table import CHECKED as CHECKED
from rvlib.pipeline.sanity_table import check as check
