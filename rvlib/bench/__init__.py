"""How fast is it here, beside its peers?  Run by ``make bench``."""

from rvlib.bench.run import bench as bench
from rvlib.bench.run import publish_bench as publish_bench
