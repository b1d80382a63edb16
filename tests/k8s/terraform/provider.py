"""What the Google provider accepts: every resource type with its arguments, read from a package, without the provider.

No registry at hand has the provider itself, so nothing here can be planned with it. But a package of bindings that was
made from the provider's schema has all names, nesting and what is required, as data. It is fetched by hash once, read
without running anything of it, and kept reduced to what the checks need.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from tests.k8s import tools

LOCK = Path(__file__).with_name("provider.lock")
VERSION = "6.50.0"

_SCOPE = "@cdktf/provider-google."
_ASSEMBLY = "package/.jsii"
_RESOURCE = re.compile(rf"google/{re.escape(VERSION)}/docs/resources/\w+ (google_\w+)}}")
# Each argument's documentation links to its name, which the bindings themselves have in another spelling.
_ARGUMENT = re.compile(r"docs/resources/\w+#(\w+)")
_CHOICES = re.compile(r'Possible values: (\["[^\]]+"\])')
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")

Types = dict[str, dict[str, Any]]


class Block(msgspec.Struct, frozen=True):
    """Arguments of a resource or of a block in it: what they are called, and which have to be there.

    Attributes:
        attributes: Those that are values.
        blocks: Those that are blocks.
        choices: Values that a text may have, where the documentation lists them.
    """

    attributes: frozenset[str]
    blocks: dict[str, Block]
    required: frozenset[str]
    choices: dict[str, frozenset[str]]


class Provider(msgspec.Struct, frozen=True):
    """Every resource type.

    Attributes:
        resources: Their arguments.
        computed: Names of texts that a resource has once it exists, arguments included.
    """

    resources: dict[str, Block]
    computed: dict[str, list[str]]


def provider() -> Provider:
    """The provider's schema, fetched on first use.

    Raises:
        tools.ToolError: It cannot be fetched.
    """
    return msgspec.json.decode(_reduced().read_bytes(), type=Provider)


def computed_file() -> Path:
    """File of `Provider.computed`, for the evaluator."""
    return _reduced().with_name("computed.json")


def _reduced() -> Path:
    own = Path(__file__).read_bytes()
    folder = tools.cache_folder() / f"provider-{tools.digest(own, LOCK.read_bytes())}"
    reduced = folder / "provider.json"
    with tools.locked(folder):
        if not reduced.exists():
            known = _read(_types())
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "computed.json").write_bytes(msgspec.json.encode(known.computed))
            new = folder / "new"
            new.write_bytes(msgspec.json.encode(known))
            new.rename(reduced)
    return reduced


def _types() -> Types:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(
            [*command, "--require-hashes", "--only-binary", ":all:", "--dest", folder, "-r", LOCK],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise tools.ToolError(f"the provider's schema cannot be fetched:\n{done.stderr[-2000:]}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (assembly,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
            with archive.open(assembly) as packed, tarfile.open(fileobj=packed, mode="r|gz") as inner:
                for member in inner:
                    content = inner.extractfile(member) if member.name == _ASSEMBLY else None
                    if content is not None:
                        types: Types = json.load(content)["types"]
                        return types
    raise tools.ToolError(f"{wheel.name} has no {_ASSEMBLY}: another version of the package than {LOCK.name} names?")


def _read(types: Types) -> Provider:
    resources: dict[str, Block] = {}
    computed: dict[str, list[str]] = {}
    for name, description in types.items():
        found = _RESOURCE.search(description.get("docs", {}).get("summary", ""))
        if description["kind"] != "class" or found is None:
            continue
        resources[found.group(1)] = _block(types, f"{name}Config")
        computed[found.group(1)] = sorted(
            _CAMEL.sub(r"_\1", each["name"]).lower()
            for each in description.get("properties", ())
            if each["type"].get("primitive") == "string" and not each["name"].endswith("Input")
        )
    return Provider(resources=resources, computed=computed)


def _block(types: Types, name: str) -> Block:
    attributes: set[str] = set()
    blocks: dict[str, Block] = {}
    required: set[str] = set()
    choices: dict[str, frozenset[str]] = {}
    for each in types[name].get("properties", ()):
        docs = each.get("docs", {})
        text = docs.get("remarks", "") + docs.get("summary", "")
        found = _ARGUMENT.search(text)
        if found is None:
            continue
        argument = found.group(1)
        if (listed := _CHOICES.search(text)) is not None:
            choices[argument] = frozenset(json.loads(listed.group(1)))
        inner = _structure(each["type"])
        if inner is None:
            attributes.add(argument)
        else:
            blocks[argument] = _block(types, inner)
        if not each.get("optional"):
            required.add(argument)
    return Block(frozenset(attributes), blocks, frozenset(required), choices)


def _structure(kind: dict[str, Any]) -> str | None:
    """Name of the structure that a type is, or is a list of."""
    name = kind.get("fqn", "")
    if name.startswith(_SCOPE):
        return str(name)
    if "collection" in kind:
        return _structure(kind["collection"]["elementtype"])
    for each in kind.get("union", {}).get("types", ()):
        if (inner := _structure(each)) is not None:
            return inner
    return None
