"""All faults, in the order of the table."""

from __future__ import annotations

from tests.reliability import disk, harness_faults, jobs, registry, slurm

FAULTS = (*jobs.FAULTS, *harness_faults.FAULTS, *disk.FAULTS, *registry.FAULTS, *slurm.FAULTS)
