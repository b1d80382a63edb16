"""The configuration that is deployed: valid, the same as the number of processes, its secrets mounted."""

from __future__ import annotations

import re
import tempfile
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from datastreamx.cli.validate import problems_of
from datastreamx.config import Config
from datastreamx.config.secrets import Secret
from tests.k8s.static.contract.model import Deployment, Report, mount_of
from tests.k8s.static.contract.program import parsed
from tests.k8s.static.workloads import Workload

_SECRET_FILE = re.compile(r'(\bfile\s*=\s*")([^"]+)(")')
# Fits every secret of ours: 64 hex digits are a key, and a text of 16 to 64 bytes.
_DUMMY = "ab" * 32


def configuration_is_valid(deployment: Deployment, report: Report) -> None:
    """`datastreamx validate` has nothing to say against the file, with its secrets in place."""
    texts = {text: one.name for one in deployment.workloads if (text := deployment.config_text(one)) is not None}
    report.expect(texts, "no workload has a configuration")
    for text, name in texts.items():
        with tempfile.TemporaryDirectory(prefix="datastreamx-contract-") as folder:
            secret, path = Path(folder, "secret"), Path(folder, "datastreamx.toml")
            secret.write_text(_DUMMY, encoding="utf-8")
            path.write_text(_SECRET_FILE.sub(rf"\g<1>{secret}\g<3>", text), encoding="utf-8")
            problems = problems_of(path)
        report.expect(not problems, f"{name}: its configuration is refused: {problems}")


def processes_are_as_many_as_configured(deployment: Deployment, report: Report) -> None:
    """As many replicas as cells, each with the same share of the partitions; a rescale goes to such a number, too."""
    for one in deployment.flows:
        config = deployment.config(one) or {}
        scaling: dict[str, Any] = config.get("scaling", {})
        partitions = config.get("events", {}).get("partitions", 8)
        replicas = one.owner["spec"].get("replicas", 1)
        strategy = one.owner["spec"].get("updateStrategy", {}).get("type")
        report.expect(
            one.owner["spec"].get("podManagementPolicy") == "Parallel", f"{one.name}: its pods wait for each other"
        )
        if scaling.get("mode", "cells") == "cells":
            cells = scaling.get("cells", 1)
            report.expect(replicas == cells, f"{one.name}: {replicas} replicas, and scaling.cells is {cells}")
            report.expect(partitions % cells == 0, f"{one.name}: {partitions} partitions over {cells} cells are uneven")
            report.expect(strategy == "RollingUpdate", f"{one.name}: cells are updated by {strategy}")
        else:
            addresses = scaling.get("addresses", [])
            service, port = one.owner["spec"]["serviceName"], one.port("exchange")
            name = one.owner["metadata"]["name"]
            expected = [f"{name}-{ordinal}.{service}:{port}" for ordinal in range(replicas)]
            report.expect(addresses == expected, f"{one.name}: scaling.addresses are {addresses}, pods {expected}")
            # One that is replaced alone takes the others down with it.
            report.expect(strategy == "OnDelete", f"{one.name}: processes of a cluster are updated by {strategy}")
        if deployment.environment != "dev":
            report.expect(partitions == 64, f"{one.name}: {partitions} partitions, for ever; 64 divide well")
    for one in deployment.workloads:
        for container in one.containers:
            _rescale(deployment, one, container.get("args", []), report)


def _rescale(deployment: Deployment, one: Workload, args: list[str], report: Report) -> None:
    if args[:1] != ["rescale"]:
        return
    _, options = parsed(args)
    config = deployment.config(one) or {}
    if config.get("scaling", {}).get("mode", "cells") != "cells":
        return
    cells, now = options["cells"], config.get("scaling", {}).get("cells", 1)
    partitions = config.get("events", {}).get("partitions", 8)
    report.expect(
        cells and partitions % cells == 0, f"{one.name}: {partitions} partitions over {cells} cells are uneven"
    )
    report.expect(cells != now, f"{one.name}: there are {now} cells already")
    report.expect(options["handed_over"], f"{one.name}: the Job mounts no recovery volume, so it needs --handed-over")


def secrets_are_files_that_are_mounted(deployment: Deployment, report: Report) -> None:
    """What is secret stands in a file of a mounted Secret, every key of which somebody reads."""
    read: set[tuple[str, str]] = set()
    for one in deployment.workloads:
        config = deployment.config(one)
        if config is None:
            continue
        for path, value in secret_values(Config, config):
            file = value.get("file") if isinstance(value, Mapping) else None
            report.expect(file, f"{one.name}: {path} is {type(value).__name__}, and no file of a Secret")
            if not file:
                continue
            for container in one.containers:
                mount = mount_of(container, file)
                name = _secret_of(one, mount["name"]) if mount else None
                key = str(Path(file).relative_to(mount["mountPath"])) if mount else ""
                place = f"{one.name}: {container['name']}: {path} is in {file}"
                report.expect(name, f"{place}, which is in no Secret")
                if name:
                    report.expect(key in provided(deployment, name), f"{place}, and Secret {name} has no such key")
                    read.add((name, key))
    for name in {name for name, _ in read}:
        for key in provided(deployment, name):
            report.expect((name, key) in read, f"Secret {name}: nobody reads {key}")


def secret_values(struct: Any, values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a configuration that its types call secret, as it stands in the file."""
    for name, hint in typing.get_type_hints(struct).items():
        if name not in values:
            continue
        value, place = values[name], f"{path}.{name}".lstrip(".")
        members = typing.get_args(hint) if typing.get_origin(hint) in {typing.Union, types.UnionType} else (hint,)
        for member in members:
            arguments = typing.get_args(member)
            if member is Secret:
                yield place, value
            elif typing.get_origin(member) is dict and arguments[1] is Secret:
                yield from ((f"{place}.{key}", one) for key, one in value.items())
            elif typing.get_origin(member) is tuple and _is_struct(arguments[0]):
                for number, one in enumerate(value):
                    yield from secret_values(arguments[0], one, f"{place}[{number}]")
            elif _is_struct(member):
                yield from secret_values(member, value, place)


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _secret_of(one: Workload, volume: str) -> str | None:
    for declared in one.spec.get("volumes", ()):
        if declared["name"] == volume:
            name: str | None = declared.get("secret", {}).get("secretName")
            return name
    return None


def provided(deployment: Deployment, name: str) -> set[str]:
    """Keys of a Secret: in the manifests, or made by the External Secrets Operator."""
    keys: set[str] = set()
    secret = deployment.named("Secret", name)
    if secret is not None:
        keys |= {*secret.get("data", ()), *secret.get("stringData", ())}
    for external in deployment.of("ExternalSecret"):
        if external["spec"]["target"]["name"] == name:
            keys |= {one["secretKey"] for one in external["spec"]["data"]}
    return keys
