"""One round: which snapshots to make, which to delete, what is wrong with those of before. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from datastreamx.cli.volumes.objects import OWN_LABEL, Snapshot

READY_WITHIN = timedelta(minutes=30)
"""A disk snapshot of some GB takes a minute; one that is not usable after this long needs a look."""

_NAME_LENGTH_MAX = 253
_LONG_AGO = datetime.fromtimestamp(0, UTC)


def snapshot_name(claim: str, now: datetime) -> str:
    """Name of the snapshot of `claim` that is made at `now` (UTC): `recovery-ads-0-20260131t120000z`."""
    suffix = f"-{now.astimezone(UTC):%Y%m%dt%H%M%Sz}"
    return claim[: _NAME_LENGTH_MAX - len(suffix)] + suffix


def snapshot_object(claim: str, now: datetime, snapshot_class: str | None) -> dict[str, Any]:
    """What is sent to the API server to have a snapshot made.

    Args:
        claim: Name of the claim.
        now: Moment of this round.
        snapshot_class: A VolumeSnapshotClass; None: the default one of the volume's driver.
    """
    spec: dict[str, Any] = {"source": {"persistentVolumeClaimName": claim}}
    if snapshot_class is not None:
        spec["volumeSnapshotClassName"] = snapshot_class
    labels = {
        "app.kubernetes.io/name": "datastreamx",
        "app.kubernetes.io/part-of": "datastreamx",
        "app.kubernetes.io/component": "snapshots",
    } | dict([OWN_LABEL])
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": snapshot_name(claim, now), "labels": labels},
        "spec": spec,
    }


def by_claim(snapshots: Iterable[Snapshot]) -> dict[str, list[Snapshot]]:
    """Our own snapshots by claim, the newest first."""
    found: dict[str, list[Snapshot]] = defaultdict(list)
    for snapshot in snapshots:
        if snapshot.is_own and snapshot.claim is not None:
            found[snapshot.claim].append(snapshot)
    return {claim: sorted(some, key=_age_order, reverse=True) for claim, some in found.items()}


def superfluous(snapshots: list[Snapshot], keep: int) -> list[Snapshot]:
    """Those of one claim, the newest first, that are beyond `keep`.

    Usable ones and others are counted apart: while every new one fails, those that can be used stay.
    """
    usable = [snapshot for snapshot in snapshots if snapshot.is_ready]
    others = [snapshot for snapshot in snapshots if not snapshot.is_ready]
    return usable[keep:] + others[keep:]


def problem_of(snapshots: list[Snapshot], now: datetime) -> str | None:
    """What is wrong with the newest of one claim's earlier snapshots, if anything is."""
    if not snapshots or snapshots[0].is_ready:
        return None
    newest = snapshots[0]
    error = newest.status.error if newest.status is not None else None
    if error is not None:
        return f"snapshot {newest.name} has failed: {error.message or 'no reason is given'}"
    if now - _age_order(newest)[0] > READY_WITHIN:
        return f"snapshot {newest.name} is not ready; is there a snapshot controller, and does it run?"
    return None


def _age_order(snapshot: Snapshot) -> tuple[datetime, str]:
    return snapshot.metadata.creation_timestamp or _LONG_AGO, snapshot.name
