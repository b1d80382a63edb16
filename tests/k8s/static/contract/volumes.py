"""Folders that the program writes are volumes, of the kind that it needs; all else of its file system is read-only."""

from __future__ import annotations

import re
from typing import Any

from tests.k8s.render import ROOT
from tests.k8s.static.contract.model import Deployment, Report, is_ours, mount_of
from tests.k8s.static.workloads import Workload

CONTAINERFILE = ROOT / "Containerfile"


def mounts_are_volumes(deployment: Deployment, report: Report) -> None:
    """Each mount names a volume, each volume is mounted, and no mount hides another."""
    for one in deployment.workloads:
        mounted = [mount for container in one.containers for mount in container.get("volumeMounts", ())]
        for name in sorted({mount["name"] for mount in mounted} | one.volume_names):
            report.expect(name in one.volume_names, f"{one.name}: there is no volume {name}")
            report.expect(any(mount["name"] == name for mount in mounted), f"{one.name}: nobody mounts volume {name}")
        for container in one.containers:
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
            report.expect(len(paths) == len(set(paths)), f"{one.name}: {container['name']}: mounts one path twice")
            read_only = container.get("securityContext", {}).get("readOnlyRootFilesystem")
            report.expect(read_only is True, f"{one.name}: {container['name']}: its root can be written")
            if not is_ours(container):
                continue
            tmp = _volume(one, container, "/tmp")  # noqa: S108  a path in a container
            report.expect(
                tmp is not None and "sizeLimit" in tmp.get("emptyDir", {}),
                f"{one.name}: {container['name']}: /tmp is not a folder of its own with a limit",
            )


def folders_of_the_program_are_volumes(deployment: Deployment, report: Report) -> None:
    """State is on a claim of the pod's own, what is handed over on one that all share, the rest is read-only."""
    for one in deployment.workloads:
        config = deployment.config(one)
        for container in filter(is_ours, one.containers):
            place = f"{one.name}: {container['name']}"
            _image_stays_visible(place, container, report)
            if config is None or one.component == "apply":
                continue
            recovery = config["recovery"]
            _state(one, container, recovery["directory"], report)
            shared = recovery.get("handover")
            volume = _volume(one, container, shared) if shared else None
            name = (volume or {}).get("persistentVolumeClaim", {}).get("claimName", "")
            claim = deployment.named("PersistentVolumeClaim", name)
            report.expect(shared, f"{place}: recovery.handover is not set, so a rescale finds nothing")
            report.expect(
                claim is not None and claim["spec"]["accessModes"] == ["ReadWriteMany"],
                f"{place}: {shared} is on no claim that all can write",
            )
            report.expect(_is_writable(container, shared or "/"), f"{place}: {shared} cannot be written")
        for container in one.containers:
            for volume in one.spec.get("volumes", ()):
                for mount in container.get("volumeMounts", ()):
                    if mount["name"] == volume["name"] and ("configMap" in volume or "secret" in volume):
                        report.expect(
                            mount.get("readOnly"), f"{one.name}: {mount['mountPath']} is not mounted readOnly"
                        )


def _state(one: Workload, container: dict[str, Any], folder: str, report: Report) -> None:
    place = f"{one.name}: {container['name']}: {folder}"
    report.expect(_is_writable(container, folder), f"{place} cannot be written")
    mount = mount_of(container, folder)
    name = mount["name"] if mount else None
    report.expect(
        mount is not None and mount["mountPath"] != folder, f"{place} is the volume itself, which holds lost+found"
    )
    if one.owner["kind"] != "StatefulSet":
        report.expect("emptyDir" in (_volume(one, container, folder) or {}), f"{place} is no scratch volume")
        return
    spec = one.owner["spec"]
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in spec.get("volumeClaimTemplates", ())}
    report.expect(name in claims, f"{place} is on no claim of the pod's own, and gone with the pod")
    report.expect(
        claims.get(str(name), {}).get("accessModes") == ["ReadWriteOncePod"], f"{place}: two pods could write one store"
    )
    kept = spec.get("persistentVolumeClaimRetentionPolicy", {})
    report.expect(
        kept == {"whenDeleted": "Retain", "whenScaled": "Retain"}, f"{one.name}: volumes go when pods go: {kept}"
    )


def _image_stays_visible(place: str, container: dict[str, Any], report: Report) -> None:
    """No volume hides what the image holds: the program, its interpreter and the compiled cache."""
    for path in ("/usr/bin", *image_folders()):
        mount = mount_of(container, path)
        report.expect(mount is None, f"{place}: a volume at {mount and mount['mountPath']} hides {path} of the image")


def image_folders() -> set[str]:
    """Folders that the last stage of the Containerfile fills or names: what COPY makes, and the cache of Numba."""
    text = CONTAINERFILE.read_text(encoding="utf-8")
    last = text[text.rindex("\nFROM ") :]
    copied = {line.split()[-1] for line in last.splitlines() if line.startswith("COPY ")}
    cache = re.search(r"\bNUMBA_CACHE_DIR=(\S+)", last)
    assert cache is not None, "the image names no NUMBA_CACHE_DIR, so each start compiles anew"
    assert any(cache[1].startswith(folder) for folder in copied), f"{cache[1]} is not copied into the image"
    return {*copied, cache[1]}


def _volume(one: Workload, container: dict[str, Any], path: str) -> dict[str, Any] | None:
    mount = mount_of(container, path)
    declared = {volume["name"]: volume for volume in one.spec.get("volumes", ())}
    return declared.get(mount["name"]) if mount else None


def _is_writable(container: dict[str, Any], path: str) -> bool:
    mount = mount_of(container, path)
    return mount is not None and not mount.get("readOnly", False)
