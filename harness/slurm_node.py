"""Jobs in a queue that an earlier release submitted start here; what they run is `harness.running.slurm.node`."""

from __future__ import annotations

import sys

from harness.running.slurm.node import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
