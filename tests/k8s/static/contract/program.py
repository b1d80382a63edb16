"""What the manifests tell the program: arguments, variables and time to end."""

from __future__ import annotations

import functools
import re
from pathlib import PurePosixPath
from typing import Any

import numba
import typer

from datastreamx.cli.app import app
from datastreamx.place import ORDINAL_VARIABLE
from datastreamx.supervisor import Limits
from flows.ports import CONFIG_VARIABLE
from tests.k8s.static.contract.model import Deployment, Report, is_ours, mount_of, variables

_ORDINAL_LABEL = "metadata.labels['apps.kubernetes.io/pod-index']"
_STARTUP_S = 300


def arguments_are_accepted(deployment: Deployment, report: Report) -> None:
    """The program's own parser takes each container's arguments; a flow's pod runs and prepares that flow."""
    for one in deployment.workloads:
        commands = {}
        for container in filter(is_ours, one.containers):
            place = f"{one.name}: {container['name']}"
            report.expect("command" not in container, f"{place} replaces the entry point of the image")
            args = [str(arg) for arg in container.get("args", ())]
            try:
                commands[container["name"]] = parsed(args)
            except ValueError as error:
                report.expect(holds=False, problem=f"{place} `datastreamx {' '.join(args)}`: {error}")
            else:
                report.expect(holds=True, problem=place)
                report.expect("--json" in args, f"{place} does not write JSON, which is what collectors read")
        if one in deployment.flows:
            ran = {name: (command, found.get("flow")) for name, (command, found) in commands.items()}
            report.expect(
                ran == {"prepare": ("prepare", one.component), one.component: ("run", one.component)},
                f"{one.name}: its containers run {ran}",
            )


def parsed(args: list[str]) -> tuple[str, dict[str, Any]]:
    """Command and parameters that the real parser makes of arguments.

    Raises:
        ValueError: it refuses them; says why.
    """
    group = _command()
    try:
        root = group.make_context("datastreamx", list(args))
        name, command, rest = group.resolve_command(root, [*root._protected_args, *root.args])
        return str(name), command.make_context(name, rest, parent=root).params
    except Exception as error:  # noqa: BLE001  the parser's errors are of a copy inside of Typer
        raise ValueError(getattr(error, "format_message", error.__str__)()) from None


@functools.cache
def _command() -> Any:
    return typer.main.get_command(app)


def known_variables() -> frozenset[str]:
    """Names that the program reads from its environment: of its own, and of its options."""
    group = _command()
    names = {ORDINAL_VARIABLE, CONFIG_VARIABLE}
    for command in group.commands.values():
        for parameter in command.params:
            given = parameter.envvar
            names |= {given} if isinstance(given, str) else set(given or ())
    return frozenset(names)


def environment_is_read(deployment: Deployment, report: Report) -> None:
    """Each variable is one that somebody reads, and says what it has to."""
    known = known_variables()
    for one in deployment.workloads:
        for container in filter(is_ours, one.containers):
            place = f"{one.name}: {container['name']}"
            for variable in container.get("env", ()):
                name = variable["name"]
                is_numba = name.startswith("NUMBA_") and hasattr(numba.config, name.removeprefix("NUMBA_"))
                report.expect(name in known or is_numba, f"{place}: nobody reads {name}")
                # A secret in the environment shows in dumps, in /proc and to every child.
                report.expect(
                    "secretKeyRef" not in variable.get("valueFrom", {}), f"{place}: {name} is a secret, mount it"
                )
            report.expect("envFrom" not in container, f"{place}: envFrom hides what is read")
            _values(deployment, one.name, container, report)
        for container in (container for container in one.containers if one in deployment.flows):
            source = next(
                (
                    variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
                    for variable in container.get("env", ())
                    if variable["name"] == ORDINAL_VARIABLE
                ),
                None,
            )
            report.expect(
                source == _ORDINAL_LABEL, f"{one.name}: {container['name']}: its ordinal is {source}, not the pod's"
            )


def _values(deployment: Deployment, name: str, container: dict[str, Any], report: Report) -> None:
    path = variables(container).get(CONFIG_VARIABLE)
    if path is None:
        return
    mount = mount_of(container, path)
    report.expect(mount, f"{name}: {container['name']}: {CONFIG_VARIABLE} is {path}, where nothing is mounted")
    (owner,) = (one for one in deployment.workloads if one.name == name)
    declared = {one["name"]: one for one in owner.spec.get("volumes", ())}
    volume = declared.get(mount["name"], {}) if mount else {}
    found = deployment.named("ConfigMap", volume.get("configMap", {}).get("name", ""))
    report.expect(
        found is not None and PurePosixPath(path).name in found["data"],
        f"{name}: {container['name']}: {CONFIG_VARIABLE} is {path}, which is in no ConfigMap",
    )


def containers_end_in_time(deployment: Deployment, report: Report) -> None:
    """A pod has time for the last snapshot and the handover, and a start has as long as a large store may take."""
    limits = Limits()
    needed_s = limits.grace_s + limits.leaving_s
    for one in deployment.flows:
        grace_s = one.spec.get("terminationGracePeriodSeconds", 30)
        report.expect(grace_s > needed_s, f"{one.name}: has {grace_s} s to end, and may need {needed_s:g}")
        for container in one.spec["containers"]:
            if not is_ours(container):
                continue
            startup, liveness = container.get("startupProbe", {}), container.get("livenessProbe", {})
            allowed_s = startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3)
            report.expect(
                allowed_s >= _STARTUP_S, f"{one.name}: a start may take {allowed_s} s, and needs {_STARTUP_S}"
            )
            report.expect(
                liveness.get("timeoutSeconds", 1) >= 3, f"{one.name}: a busy node is no reason to kill a process"
            )


def jobs_end_and_leave_nothing(deployment: Deployment, report: Report) -> None:
    """A Job gives up at some time, is tidied away, and never runs beside itself."""
    for one in deployment.workloads:
        if one.owner["kind"] not in {"Job", "CronJob"}:
            continue
        cron = one.owner["spec"] if one.owner["kind"] == "CronJob" else None
        spec = one.owner["spec"] if cron is None else cron["jobTemplate"]["spec"]
        for key in ("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
            report.expect(spec.get(key) is not None, f"{one.name}: has no {key}")
        # The kubelet would start it again and again beside what the Job counts.
        report.expect(one.spec.get("restartPolicy") == "Never", f"{one.name}: restartPolicy is not Never")
        report.expect(spec.get("parallelism", 1) == 1, f"{one.name}: runs several times at once")
        if cron is not None:
            report.expect(cron.get("concurrencyPolicy") == "Forbid", f"{one.name}: may run beside itself")
            report.expect(cron.get("timeZone") == "Etc/UTC", f"{one.name}: its time zone is whatever the cluster has")
            # Without it a hundred missed starts end all later ones.
            report.expect(cron.get("startingDeadlineSeconds"), f"{one.name}: has no startingDeadlineSeconds")


def image_is_pinned(deployment: Deployment, report: Report) -> None:
    """One image for all, by its digest wherever there is a registry."""
    images = {container["image"] for one in deployment.workloads for container in one.containers if is_ours(container)}
    report.expect(len(images) == 1, f"containers run different images: {sorted(images)}")
    for one in deployment.workloads:
        for container in one.containers:
            image = container["image"]
            pinned = re.fullmatch(r"[a-z0-9.-]+(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}", image)
            if deployment.environment != "dev":
                report.expect(pinned, f"{one.name}: {container['name']}: image {image} is not named by its digest")
            report.expect(
                not image.endswith(":latest"), f"{one.name}: {container['name']}: image is whatever is latest"
            )
