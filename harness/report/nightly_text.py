"""What a night brought as a sentence and as Markdown."""

from __future__ import annotations

from harness.report.headline import headline_cells, headline_columns
from harness.report.nightly import NewVersion, NightRow, Report
from harness.report.readable import markdown_table
from harness.words import count


def sentence(found: Report) -> str:
    """What a night brought, in one sentence."""
    steps = {one.step for one in found.new}
    if found.new:
        first = ", ".join(f"{a} -> {b}" for a, b in sorted(steps)[:3])
        more = f" and {len(steps) - 3} more" if len(steps) > 3 else ""
        return f"{count(len(found.new), 'new divergence')} in {first}{more}, which earlier nights did not have."
    if not found.compared_with:
        return "No earlier night to compare with: what diverges tonight is known from now on."
    return f"Nothing diverges that did not diverge before (last compared with {found.compared_with})."


def markdown(found: Report) -> str:
    """The summary: the sentence, what is new, the headline table, and what else a person should know."""
    about = found.night.about
    changed = {one.step for one in found.new}
    parts = [
        f"## Night {found.night.name}",
        sentence(found),
        "Collection "
        + "; ".join(
            f"{name}: {about[name].rpartition(' ')[0] if name != 'device' else about[name]}"
            for name in ("collection", "checkpoint", "device")
            if name in about
        ).removeprefix("collection: "),
    ]
    if found.added:
        parts += ["### New versions", "\n".join(f"- {_of_version(one)}" for one in found.added)]
    if found.new:
        rows = [
            (*one.step, one.artifact, _words(one.before) if one.before else "not compared", _words(one.now), one.since)
            for one in found.new
        ]
        parts += [
            "### New",
            markdown_table((*headline_columns(about.get("axis"))[:2], "Artifact", "Before", "Now", "Night"), rows),
        ]
    axis = about.get("axis")
    headline = [
        (*headline_cells(row, axis), "NEW" if (row.a, row.b) in changed else "") for row in found.night.headline
    ]
    parts += ["### All steps", markdown_table((*headline_columns(axis), ""), headline)]
    notes = []
    if found.gaps:
        notes.append(f"{len(found.gaps)} of {count(len(found.night.headline), 'step')} could not be compared tonight.")
    if found.night.unknown:
        places = ", ".join(f"{artifact} ({a} -> {b})" for (a, b), artifact in found.night.unknown[:6])
        more = " and more" if len(found.night.unknown) > 6 else ""
        notes.append(f"Not known tonight, because a side could not be read or recorded: {places}{more}.")
    if found.gone:
        places = ", ".join(f"{one.artifact} ({one.step[0]} -> {one.step[1]})" for one in found.gone[:6])
        notes.append(f"Better than before: {places}{' and more' if len(found.gone) > 6 else ''}.")
    if found.drifted:
        places = ", ".join(f"{artifact} of {version}" for version, artifact in found.drifted[:6])
        more = f" and {len(found.drifted) - 6} more" if len(found.drifted) > 6 else ""
        notes.append(
            f"The same cell came out with other bits than the last time: {places}{more}. A driver or a machine that "
            "changed, or noise (`--repeat` measures it)."
        )
    if found.relocked:
        notes.append(
            f"Other cells than the last time: {', '.join(found.relocked)}, whose lock or oddities changed; what is new "
            "there may come from a package beside torch (`harness lock --diff`, git log locks)."
        )
    if found.unreadable:
        notes.append(f"Tables that could not be read: {', '.join(found.unreadable)}.")
    return "\n\n".join([*parts, *notes]) + "\n"


def _of_version(one: NewVersion) -> str:
    """What a new version changes, in one sentence."""
    a, b = one.step
    if one.gap:
        return f"{b}: could not be compared with {a} ({one.gap})."
    unknown = f" Not known: {', '.join(one.unknown)}." if one.unknown else ""
    if one.final:
        return f"{b}: changes {', '.join(one.final)} against {a}.{unknown}"
    inside = f" in the index; inside the pipeline it changes {', '.join(one.inside)}" if one.inside else ""
    # Of what could not be compared, nobody says that it is the same.
    nothing = "changes nothing else" if one.unknown else "changes nothing"
    return f"{b}: {nothing} here{inside}.{unknown}"


def _words(one: NightRow) -> str:
    count = f", {one.n_mismatch:,} of {one.n:,}" if one.n_mismatch and one.n else ""
    failing = f", fails {' and '.join(sorted(one.failing))}" if one.failing else ""
    return f"{one.status}{count}{failing}"
