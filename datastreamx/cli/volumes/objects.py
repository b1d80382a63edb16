"""What the Kubernetes API says of claims and snapshots, as far as it matters here."""

from __future__ import annotations

from datetime import datetime

import msgspec

OWN_LABEL = ("app.kubernetes.io/managed-by", "datastreamx-snapshot-volumes")
"""Marks the snapshots that this command has made; no other is ever deleted."""


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all: keys as Kubernetes writes them, those that are not named here are left out."""


class Meta(_Object, frozen=True, kw_only=True):
    """`metadata` of an object."""

    name: str
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}


class ClaimStatus(_Object, frozen=True, kw_only=True):
    """`status` of a claim."""

    phase: str = "Pending"


class Claim(_Object, frozen=True, kw_only=True):
    """A PersistentVolumeClaim."""

    metadata: Meta
    status: ClaimStatus = ClaimStatus()

    @property
    def name(self) -> str:
        """Name of the claim."""
        return self.metadata.name

    @property
    def has_volume(self) -> bool:
        """Whether there is a volume behind it, and will be."""
        return self.status.phase == "Bound" and self.metadata.deletion_timestamp is None


class SnapshotSource(_Object, frozen=True, kw_only=True):
    """`spec.source` of a snapshot; no claim if it was imported."""

    persistent_volume_claim_name: str | None = None


class SnapshotSpec(_Object, frozen=True, kw_only=True):
    """`spec` of a snapshot."""

    source: SnapshotSource = SnapshotSource()


class SnapshotError(_Object, frozen=True, kw_only=True):
    """Why a snapshot has failed; the controller goes on trying."""

    message: str | None = None


class SnapshotStatus(_Object, frozen=True, kw_only=True):
    """`status` of a snapshot; absent until the controller has seen it."""

    ready_to_use: bool | None = None
    error: SnapshotError | None = None


class Snapshot(_Object, frozen=True, kw_only=True):
    """A VolumeSnapshot."""

    metadata: Meta
    spec: SnapshotSpec = SnapshotSpec()
    status: SnapshotStatus | None = None

    @property
    def name(self) -> str:
        """Name of the snapshot."""
        return self.metadata.name

    @property
    def claim(self) -> str | None:
        """Name of the claim that it was made of."""
        return self.spec.source.persistent_volume_claim_name

    @property
    def is_ready(self) -> bool:
        """Whether a volume can be made from it."""
        return self.status is not None and self.status.ready_to_use is True

    @property
    def is_own(self) -> bool:
        """Whether this command has made it, and it is not being deleted."""
        name, value = OWN_LABEL
        return self.metadata.labels.get(name) == value and self.metadata.deletion_timestamp is None


class ListMeta(_Object, frozen=True, kw_only=True):
    """`metadata` of a page of a list; the token of the next one is named `continue`."""

    next_page: str | None = msgspec.field(default=None, name="continue")


class ClaimList(_Object, frozen=True, kw_only=True):
    """One page of claims."""

    items: list[Claim]
    metadata: ListMeta = ListMeta()


class SnapshotList(_Object, frozen=True, kw_only=True):
    """One page of snapshots."""

    items: list[Snapshot]
    metadata: ListMeta = ListMeta()
