"""``python -m rvlib``: the command line."""

import sys

from rvlib.cli import main

sys.exit(main())
