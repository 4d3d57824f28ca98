"""How fast is it here, beside its peers?  Run by ``make bench``."""

from rvlib.bench.run import bench as bench
