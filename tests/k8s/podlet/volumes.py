"""The volumes of pods: claims that outlive them, files of ConfigMaps and Secrets, scratch space.

A claim is a folder, or a file system of the claimed size where sizes are to be enforced. What is mounted in a container
is prepared here as on a node, so that a container that restarts finds its pod's scratch space as it was.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.k8s.podlet import machine
from tests.k8s.podlet.machine import PodletError, run
from tests.k8s.podlet.manifest import Identity, Resource, Store, quantity
from tests.k8s.podlet.sandbox import Mount

_FILE_MODE = 0o644
_GROUP_READS = 0o440
_GROUP_WRITES = 0o2770


@dataclass(frozen=True)
class Volume:
    """A volume as its node has it."""

    folder: Path
    read_only: bool = False


class Volumes:
    """All volumes below a folder.

    Args:
        folder: Where they are.
        store: Knows ConfigMaps, Secrets and claims.
        enforce_sizes: Give each claim a file system of the size that it claims.
    """

    def __init__(self, folder: Path, store: Store, *, enforce_sizes: bool) -> None:
        self._claims = folder / "claims"
        self._snapshots = folder / "snapshots"
        self._pods = folder / "pods"
        self._store = store
        self._enforce_sizes = enforce_sizes
        self._numbers = itertools.count()

    def prepare(self, spec: Resource, identity: Identity, templates: Iterable[Resource]) -> dict[str, Volume]:
        """Make the volumes of a pod, by name.

        Args:
            spec: Of the pod.
            identity: Of the pod.
            templates: Claim templates of its StatefulSet.

        Raises:
            PodletError: A kind of volume that is not known, or something is missing.
        """
        group = spec.get("securityContext", {}).get("fsGroup")
        found: dict[str, Volume] = {}
        for template in templates:
            name = template["metadata"]["name"]
            found[name] = Volume(self._claim(f"{name}-{identity.name}", template["spec"], group))
        for volume in spec.get("volumes", []):
            folder = self._pods / identity.uid / volume["name"]
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                claimed = self._store.get("PersistentVolumeClaim", claim)["spec"]
                found[volume["name"]] = Volume(self._claim(claim, claimed, group))
            elif "emptyDir" in volume:
                found[volume["name"]] = Volume(_scratch(folder, volume["emptyDir"], group))
            elif "configMap" in volume or "secret" in volume:
                folder.mkdir(parents=True)
                self._write(folder, volume, group)
                found[volume["name"]] = Volume(folder, read_only=True)
            else:
                raise PodletError(f"{identity.name}: the harness knows no volume like {volume}")
        return found

    def refresh(self, spec: Resource, identity: Identity) -> None:
        """Write files of ConfigMaps and Secrets anew, all of a volume at once, as a kubelet does when they change."""
        group = spec.get("securityContext", {}).get("fsGroup")
        for volume in spec.get("volumes", []):
            if "configMap" in volume or "secret" in volume:
                self._write(self._pods / identity.uid / volume["name"], volume, group)

    def release(self, spec: Resource, uid: str) -> None:
        """Remove what ends with a pod."""
        for volume in spec.get("volumes", []):
            folder = self._pods / uid / volume["name"]
            if folder.is_mount():
                run("umount", "--lazy", str(folder))
        shutil.rmtree(self._pods / uid, ignore_errors=True)

    def folder(self, claim: str) -> Path:
        """Where the contents of a claim are.

        Raises:
            PodletError: No pod has ever had it.
        """
        if not (self._claims / claim).is_dir():
            raise PodletError(f"there is no volume of claim {claim!r}; there are: {sorted(self.claims())}")
        return self._claims / claim

    def claims(self) -> list[str]:
        """Claims that have a volume."""
        return [path.name for path in self._claims.iterdir() if path.is_dir()] if self._claims.is_dir() else []

    def lose(self, claim: str) -> None:
        """Delete a claim with its volume; the next pod that wants it gets an empty one. Nobody may use it."""
        folder = self.folder(claim)
        if folder.is_mount():
            run("umount", str(folder))
            folder.with_suffix(".ext4").unlink()
        shutil.rmtree(folder)

    def snapshot(self, claim: str) -> Path:
        """Copy a volume; nobody may write meanwhile. Returns where the copy is."""
        copy = self._snapshots / f"{claim}-{next(self._numbers)}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        run("cp", "--archive", str(self.folder(claim)), str(copy))
        return copy

    def restore(self, claim: str, snapshot: Path) -> None:
        """Make a volume what it was; nobody may use it."""
        folder = self.folder(claim)
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        run("cp", "--archive", f"{snapshot}/.", str(folder))

    def _claim(self, claim: str, spec: Resource, group: int | None) -> Path:
        folder = self._claims / claim
        folder.mkdir(parents=True, exist_ok=True)
        if self._enforce_sizes and not folder.is_mount():
            size = quantity(spec["resources"]["requests"]["storage"])
            disk = folder.with_suffix(".ext4")
            run("truncate", f"--size={size}", str(disk))
            run("mkfs.ext4", "-q", "-m", "0", str(disk))
            run("mount", "-o", "loop,nosuid,nodev", str(disk), str(folder))
            shutil.rmtree(folder / "lost+found")
        _give(folder, group)
        return folder

    def _write(self, folder: Path, volume: Resource, group: int | None) -> None:
        """Files of one ConfigMap or Secret, behind a link that is moved when all of them are there."""
        kind = "ConfigMap" if "configMap" in volume else "Secret"
        source = volume.get("configMap") or volume["secret"]
        name = source.get("name") or source["secretName"]
        data = self._store.data(kind, name, optional=source.get("optional", False))
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        old = folder / "..data"
        before = old.readlink() if old.is_symlink() else None
        new = folder / f"..{next(self._numbers)}"
        for item in items:
            if item["key"] not in data:
                raise PodletError(f"{kind} {name} has no key {item['key']!r}")
            path = new / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[item["key"]])
            mode = item.get("mode", source.get("defaultMode", _FILE_MODE))
            path.chmod(mode if group is None else mode | _GROUP_READS)
            os.chown(path, 0, group or 0)
        new.mkdir(exist_ok=True)
        link = folder / "..data_tmp"
        link.symlink_to(new.name)
        link.replace(old)
        for first in {Path(item["path"]).parts[0] for item in items}:
            if not (folder / first).is_symlink():
                (folder / first).symlink_to(Path("..data") / first)
        if before is not None:
            shutil.rmtree(folder / before)


def mounts(container: Resource, volumes: Mapping[str, Volume]) -> tuple[Mount, ...]:
    """What a container sees where, outer folders first.

    Raises:
        PodletError: It mounts a volume that its pod has not.
    """
    found: list[Mount] = []
    for entry in sorted(container.get("volumeMounts", []), key=lambda entry: len(Path(entry["mountPath"]).parts)):
        volume = volumes.get(entry["name"])
        if volume is None:
            raise PodletError(f"container {container['name']} mounts {entry['name']!r}, which is no volume of its pod")
        target = Path(entry["mountPath"])
        source = volume.folder / entry.get("subPath", "")
        for outer in reversed(found):
            if target.is_relative_to(outer.target):
                # What is read-only inside needs the place beforehand; kubelets make it, too.
                (outer.source / target.relative_to(outer.target)).mkdir(parents=True, exist_ok=True)
                break
        found.append(Mount(source, str(target), volume.read_only or entry.get("readOnly", False)))
    return tuple(found)


def _scratch(folder: Path, spec: Resource, group: int | None) -> Path:
    folder.mkdir(parents=True)
    if spec.get("medium") == "Memory":
        size = f",size={quantity(spec['sizeLimit'])}" if "sizeLimit" in spec else ""
        run("mount", "-t", "tmpfs", "-o", f"nosuid,nodev,mode=1777{size}", machine.name(), str(folder))
    folder.chmod(0o1777)
    if group is not None:
        os.chown(folder, 0, group)
    return folder


def _give(folder: Path, group: int | None) -> None:
    """What fsGroup does to the root of a volume."""
    if group is not None:
        os.chown(folder, 0, group)
        folder.chmod(folder.stat().st_mode | _GROUP_WRITES)
