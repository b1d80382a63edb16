"""The tools that judge the manifests: pinned, built or installed on first use, kept by the hash of their lock.

`python -m tests.k8s.tools` fetches all that are not from Debian, so that no test waits for a compiler.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
# Where Debian keeps programs that a user's PATH may lack.
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/lib/podman")


class ToolError(Exception):
    """A tool cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class _Go:
    """A program of a Go module; `pins` is the folder whose go.mod and go.sum fix it and all that it is made of."""

    pins: str
    package: str
    # The module whose version Kubernetes programs are to report; unstamped ones take themselves for v0.0.0.
    stamped_by: str = ""


@dataclass(frozen=True, slots=True)
class _Python:
    """A program of a package in this lock, installed into an environment of its own."""

    lock: str = "requirements.lock"


@dataclass(frozen=True, slots=True)
class _Debian:
    """A program of a Debian package, found where that package puts it."""

    package: str


_Kind = _Go | _Python | _Debian

_KUBERNETES = "k8s.io/kubernetes"

_TOOLS: dict[str, _Kind] = {
    "kustomize": _Go("checkers", "sigs.k8s.io/kustomize/kustomize/v5"),
    "kubeconform": _Go("checkers", "github.com/yannh/kubeconform/cmd/kubeconform"),
    "kube-score": _Go("checkers", "github.com/zegl/kube-score/cmd/kube-score"),
    # Debian's is too old for what the API server and its clients want of a watch.
    "etcd": _Go("controlplane", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": _Go("controlplane", f"{_KUBERNETES}/cmd/kube-apiserver", _KUBERNETES),
    "kube-controller-manager": _Go("controlplane", f"{_KUBERNETES}/cmd/kube-controller-manager", _KUBERNETES),
    "kube-scheduler": _Go("controlplane", f"{_KUBERNETES}/cmd/kube-scheduler", _KUBERNETES),
    "kwok": _Go("controlplane", "sigs.k8s.io/kwok/cmd/kwok"),
    "checkov": _Python(),
    "cyclonedx-py": _Python("supply-chain.lock"),
    "hadolint": _Python(),
    "kubernetes-validate": _Python(),
    "pip-audit": _Python("supply-chain.lock"),
    # The interpreter of that environment, for what is a library and no program.
    "python": _Python(),
    "yamllint": _Python(),
    "debootstrap": _Debian("debootstrap"),
    "ip": _Debian("iproute2"),
    "nft": _Debian("nftables"),
    "podman": _Debian("podman"),
    "promtool": _Debian("prometheus"),
    "runc": _Debian("runc"),
}


def tool(name: str) -> Path:
    """Find the program `name`, building or installing it first if this lock's copy is not there yet.

    Safe to call from several processes at once: one builds, the others wait.

    Raises:
        ToolError: it is none of ours, or it could not be built, installed or found.
    """
    kind = _TOOLS.get(name)
    match kind:
        case None:
            raise ToolError(f"no tool is called {name!r}; known are {', '.join(sorted(_TOOLS))}")
        case _Go():
            return _built(name, kind)
        case _Python():
            return _installed(name, kind)
        case _Debian():
            return _found(name, kind)


def names(*, fetched: bool) -> tuple[str, ...]:
    """Name the tools that are `fetched` by pins of ours, or those that Debian supplies."""
    return tuple(name for name, kind in _TOOLS.items() if isinstance(kind, _Debian) is not fetched)


def cache_folder() -> Path:
    """Where fetched tools live, outside the checkout, so that every checkout of the same lock shares them."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datastreamx" / "tools"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock beside `path` over processes; it ends with the process whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def digest(*parts: bytes) -> str:
    """Hash what fixes a tool's bytes into the name of its folder."""
    together = hashlib.sha256()
    for part in parts:
        together.update(hashlib.sha256(part).digest())
    return together.hexdigest()[:16]


def run(command: list[str | Path], *, name: str, folder: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a step of a build at low priority and return its standard output.

    Raises:
        ToolError: the step failed; the message ends with what it said.
    """
    done = subprocess.run(
        ["nice", "-n", "10", *map(str, command)],
        cwd=folder,
        env={**os.environ, **(env or {})},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stderr or done.stdout)[-4000:]
        raise ToolError(f"{name}: `{' '.join(map(str, command))}` ended with {done.returncode}:\n{said}")
    return done.stdout


def _built(name: str, kind: _Go) -> Path:
    pins = _HERE / kind.pins
    go = shutil.which("go")
    if go is None:
        raise ToolError(f"{name} is built with Go, which is not on PATH: install Go 1.26 or newer")
    version = run([go, "env", "GOVERSION"], name=name, folder=_HERE)
    lock = digest(version.encode(), *((pins / file).read_bytes() for file in ("go.mod", "go.sum")))
    program = cache_folder() / f"{kind.pins}-{lock}" / name
    if program.exists():
        return program
    with locked(program):
        if not program.exists():
            new = program.with_name(f".{name}.new")
            flags = ["-ldflags", _ldflags(go, pins, kind)]
            # One compiler at a time: the machine is shared, and a link of the API server alone takes 2 GiB.
            run(
                [go, "build", "-p", "1", "-mod=readonly", "-trimpath", *flags, "-o", new, kind.package],
                name=name,
                folder=pins,
                env={"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"},
            )
            new.rename(program)
    return program


def _ldflags(go: str, pins: Path, kind: _Go) -> str:
    if not kind.stamped_by:
        return "-s -w"
    version = run([go, "list", "-m", "-f", "{{.Version}}", kind.stamped_by], name=kind.package, folder=pins).strip()
    major, minor = version.removeprefix("v").split(".")[:2]
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())])


def _installed(name: str, kind: _Python) -> Path:
    lock = _HERE / kind.lock
    environment = cache_folder() / f"python-{digest(sys.version.encode(), lock.read_bytes())}"
    # Scripts of an environment name its folder, so it cannot be made elsewhere and moved here when it is complete.
    complete = environment / ".complete"
    if not complete.exists():
        with locked(environment):
            if not complete.exists():
                shutil.rmtree(environment, ignore_errors=True)
                run([sys.executable, "-m", "venv", environment], name=name)
                run([environment / "bin/python", "-m", "pip", "install", *_PIP, "-r", lock], name=name)
                complete.touch()
    program = environment / "bin" / name
    if not program.exists():
        raise ToolError(f"{lock.name} installs no program called {name!r}: see {environment}/bin")
    return program


_PIP = ("--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:")


def _found(name: str, kind: _Debian) -> Path:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])
    found = shutil.which(name, path=path)
    if found is None:
        raise ToolError(f"{name} is not installed: run `apt-get install {kind.package}`")
    return Path(found)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for one run of a tool."""
    return tempfile.TemporaryDirectory(prefix="datastreamx-tool-")
