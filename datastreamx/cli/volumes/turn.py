"""One turn of the snapshots: make one of each volume, delete what is beyond the number to keep."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from datastreamx.cli.volumes.cluster import Cluster, RefusedError
from datastreamx.cli.volumes.cycle import by_claim, problem_of, snapshot_name, snapshot_object, superfluous
from datastreamx.cli.volumes.objects import OWN_LABEL
from datastreamx.clock import Clock

OWN_SELECTOR = "=".join(OWN_LABEL)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What one turn is to do.

    Attributes:
        selector: Label selector of the claims.
        keep: Usable snapshots that stay per claim, this turn's not counted: it is not usable yet.
        snapshot_class: A VolumeSnapshotClass; None: the default one.
    """

    selector: str
    keep: int
    snapshot_class: str | None = None


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What one turn has done.

    Attributes:
        made: Names of the new snapshots.
        deleted: Names of those that were beyond the number to keep.
        skipped: Claims without a volume.
        problems: One line each: what was refused, and what is wrong with the snapshots of before.
    """

    made: list[str] = []
    deleted: list[str] = []
    skipped: list[str] = []
    problems: list[str] = []


def take_turn(cluster: Cluster, wanted: Wanted, clock: Clock) -> Turn:
    """Make and delete. What is refused for one volume does not keep the others from theirs.

    Nothing is deleted of a claim whose new snapshot was refused, nor of one that is gone: its snapshots are all that is
    left of it.

    Raises:
        CrashError: Claims or snapshots cannot be listed.
        RetryableError: The API server does not answer. What was done by then stays.
    """
    turn = Turn()
    now = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
    claims = cluster.claims(wanted.selector)
    earlier = by_claim(cluster.snapshots(OWN_SELECTOR))
    turn.skipped.extend(claim.name for claim in claims if not claim.has_volume)
    volumes = [claim.name for claim in claims if claim.has_volume]
    if not volumes:
        turn.problems.append(f"no claim that matches {wanted.selector} has a volume: there is nothing to take one of")
    for claim in volumes:
        before = earlier.get(claim, [])
        problem = problem_of(before, now)
        if problem is not None:
            turn.problems.append(f"{claim}: {problem}")
        try:
            cluster.make(snapshot_object(claim, now, wanted.snapshot_class))
        except RefusedError as refusal:
            turn.problems.append(f"{claim}: no snapshot was made: {refusal}")
            continue
        turn.made.append(snapshot_name(claim, now))
        for snapshot in superfluous(before, wanted.keep):
            try:
                cluster.delete(snapshot.name)
            except RefusedError as refusal:
                turn.problems.append(f"{claim}: {snapshot.name} was not deleted: {refusal}")
            else:
                turn.deleted.append(snapshot.name)
    return turn
