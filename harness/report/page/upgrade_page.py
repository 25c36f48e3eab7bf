"""The page of an upgrade: the answer of `harness upgrade` with what it rests on, to hand on."""

from __future__ import annotations

from pathlib import Path

from harness.report.page.ladder import state_of
from harness.report.page.page import render
from harness.report.readable import deployments
from harness.report.upgrade import Upgrade


def upgrade_page(found: Upgrade, target: Path) -> str:
    """One HTML page of an upgrade, with the same look and the same promises as that of tables.

    Args:
        found: the answer.
        target: where it will be written.
    """
    told = found.to_json()
    measures = dict.fromkeys(name for one in told["deployments"].values() for name in one["measures"])
    return render(
        "upgrade.html", target,
        found=told, measures=list(measures), kept={one.name for one in found.index.final},
        titles=deployments(found.a, found.b),
        blame=found.blame_sentences,
        # What a repeat shows is `noise` in a row of tables, and `above_noise`, its contrary, here.
        state_of=lambda one: state_of({**one, "noise": one["above_noise"] is False}),
    )  # fmt: skip
