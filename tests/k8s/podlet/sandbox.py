"""One container as a process: own mounts, process ids and host name, in its pod's network, without rights.

The first process sees a root made of read-only parts of this machine: the system's libraries, the Python that runs us,
the checkout. It is process 1 of its namespace, as in a container: signals that it does not handle do not reach it.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simulator.processes import Child
from tests.k8s.podlet import machine
from tests.k8s.podlet.machine import PodletError

CHECKOUT = Path(__file__).parents[3]

_SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr")
_ETC = ("ld.so.cache", "ssl", "localtime", "mime.types")
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_START_WITHIN_S = 20.0
_SIGNALLED = 128


@dataclass(frozen=True)
class Image:
    """What the container's image stands for.

    Attributes:
        entrypoint: What args are given to.
        env: What the image sets.
        user: Who runs it where the manifest does not say.
        folders: Folders of this machine that are in it, by where they are; read-only.
    """

    entrypoint: tuple[str, ...]
    env: Mapping[str, str]
    user: int
    folders: Mapping[str, Path]


def local_image(env: Mapping[str, str] | None = None) -> Image:
    """Our own image, as far as this checkout and its environment can be it: with the variables of the Containerfile.

    Bytecode and machine code are compiled on the first use on this machine, as the image's build does, and kept:
    whoever runs in a pod can write neither, and would compile all of it at each start.

    Args:
        env: More that it sets.
    """
    stage = re.split(r"^FROM ", (CHECKOUT / "Containerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)[-1]
    lines = re.findall(r"^ENV ((?:.*\\\n)*.*)", stage, re.MULTILINE)
    variables = dict(word.split("=", 1) for line in lines for word in line.replace("\\\n", "").split())
    variables |= bare_image().env
    compiled = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datastreamx" / "podlet-numba"
    sources = [Path(sys.prefix) / "lib", *(folder for folder in CHECKOUT.iterdir() if any(folder.glob("*.py")))]
    warm_up = "from operators.viewing.warm import warm_up; warm_up()"
    environment = {**variables, "NUMBA_CACHE_DIR": str(compiled)}
    for argv in (["-m", "compileall", "-q", "-j2", *map(str, sources)], ["-c", warm_up]):
        subprocess.run([sys.executable, *argv], check=True, cwd=CHECKOUT, env=environment)
    folders = {**bare_image().folders, variables["NUMBA_CACHE_DIR"]: compiled}
    return Image(("datastreamx",), {**variables, **(env or {})}, 10001, folders)


def bare_image() -> Image:
    """Python and this checkout, and nothing that takes time: for services of the harness's own tests."""
    folders = {str(path): path for path in (Path(sys.base_prefix), Path(sys.prefix), CHECKOUT)}
    return Image((), {"PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin", "HOME": "/"}, 10001, folders)


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine in the container's view."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True)
class Sandbox:
    """What one container is given.

    Attributes:
        namespace: Its pod's network.
        root: Empty folder where its root is put together; only it sees what is there.
        mounts: Outer ones first.
        procs: File through which it joins its memory group, if it has a limit.
        groups: Besides `gid`.
    """

    name: str
    hostname: str
    namespace: Path
    root: Path
    hosts: Path
    mounts: tuple[Mount, ...]
    folders: Mapping[str, Path]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    workdir: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    read_only_root: bool = True
    drop_capabilities: bool = True
    no_new_privileges: bool = True
    procs: Path | None = None
    log_path: Path = field(default=Path(os.devnull))


class Process:
    """A container's first process; it and all that it starts die with this process, too.

    Raises:
        PodletError: It could not be set up; quotes what was said.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        sandbox.root.mkdir(parents=True, exist_ok=True)
        started = sandbox.root.with_suffix(".started")
        started.write_bytes(b"")
        self._child = Child(
            sandbox.name, _command(sandbox, started), log_path=sandbox.log_path, env={"PATH": machine.PATH}
        )
        self._child.start()
        deadline_s = time.monotonic() + _START_WITHIN_S
        while not (pid := started.read_text(encoding="ascii").strip()):
            code = self._child.poll()
            # It may have started and ended between the two looks.
            if code is not None and not started.read_bytes():
                raise PodletError(f"{sandbox.name} cannot be set up: {self._child.log_tail()}")
            if time.monotonic() > deadline_s:
                self._child.kill()
                raise PodletError(f"{sandbox.name} was not set up in {_START_WITHIN_S:.0f} s")
            time.sleep(0.005)
        self.pid = int(pid)

    def poll(self) -> int | None:
        """The exit code as a kubelet records it, 128 and the number of the signal that ended it; `None`: it runs."""
        code = self._child.poll()
        return _SIGNALLED - code if code is not None and code < 0 else code

    def abandon(self) -> None:
        """End it at once, whatever state it is in."""
        self._child.kill()


def tree(pid: int) -> list[int]:
    """A process and all below it, parents first."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text(encoding="ascii").split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to processes; those that have ended do not mind."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _command(sandbox: Sandbox, started: Path) -> list[str]:
    """The program: a shell that waits, in whose new namespace of processes the next one is number 1."""
    rights = ["--reuid", str(sandbox.uid), "--regid", str(sandbox.gid), "--pdeathsig", "KILL"]
    rights += ["--groups", ",".join(map(str, sandbox.groups))] if sandbox.groups else ["--clear-groups"]
    if sandbox.drop_capabilities:
        rights += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    if sandbox.no_new_privileges:
        rights += ["--no-new-privs"]
    env = [f"{key}={value}" for key, value in sandbox.env.items()]
    # The waiting shell has a say about signals that end the other, which is none of the container's log.
    wait = 'sh -euc "$@" 4>&2 2>/dev/null; exit $?'
    return [
        *("nsenter", f"--net={sandbox.namespace}"),
        *("unshare", "--mount", "--propagation", "private", "--pid", "--uts", "--ipc"),
        *("sh", "-c", wait, "wait", _script(sandbox, started), "setup"),
        *("setpriv", *rights, "env", "-i", *env, *sandbox.argv),
    ]


def _script(sandbox: Sandbox, started: Path) -> str:
    """Put the root together, make it the root, and become the container's program."""
    lines = [
        f"exec 2>&4 4>&- 3>{_q(started)}",
        # /proc is still this machine's, and so is the number that it shows us.
        "read pid rest </proc/self/stat",
        *([f"echo 0 >{_q(sandbox.procs)}"] if sandbox.procs else []),
        f"echo {_q(sandbox.hostname)} >/proc/sys/kernel/hostname",
        f"mount -t tmpfs -o mode=755,size=16m root {_q(sandbox.root)}",
        f"cd {_q(sandbox.root)}",
        "mkdir etc proc dev sys tmp",
        f"printf '%s\\n' root:x:0:0::/: app:x:{sandbox.uid}:{sandbox.gid}::/: >etc/passwd",
        f"printf '%s\\n' root:x:0: app:x:{sandbox.gid}: >etc/group",
        "echo 'hosts: files' >etc/nsswitch.conf; echo 'multi on' >etc/host.conf",
        f"echo {_q(sandbox.hostname)} >etc/hostname",
        *_system(),
        *_folders(sandbox, hidden=False),
        *_bind(Mount(sandbox.hosts, "/etc/hosts", True)),
        "mount -t proc -o nosuid,nodev,noexec proc proc",
        "mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys",
        "mount -t tmpfs -o mode=755,size=64k dev dev",
        "mkdir dev/shm; mount -t tmpfs -o mode=1777,size=64m,nosuid,nodev,noexec shm dev/shm",
        *(f": >dev/{device}; mount --bind /dev/{device} dev/{device}" for device in _DEVICES),
        "ln -s /proc/self/fd dev/fd; ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr",
        *(line for mount in sandbox.mounts for line in _bind(mount)),
        *_folders(sandbox, hidden=True),
        "pivot_root . .; umount -l .",
        *(["mount -o remount,ro /"] if sandbox.read_only_root else []),
        f"cd {_q(sandbox.workdir)}",
        "echo $pid >&3; exec 3>&-",
        'exec "$@"',
    ]
    return "\n".join(lines)


def _system() -> list[str]:
    lines = []
    for folder in map(Path, _SYSTEM):
        if folder.is_symlink():
            lines.append(f"ln -s {_q(folder.readlink())} .{folder}")
        elif folder.is_dir():
            lines += _bind(Mount(folder, str(folder), True))
    for path in (Path("/etc", name) for name in _ETC):
        if path.exists():
            lines += _bind(Mount(path.resolve(), str(path), True))
    return lines


def _folders(sandbox: Sandbox, *, hidden: bool) -> list[str]:
    """Of the image; those that a mount would hide come after it: a checkout below /tmp has to be in the pod's own."""
    targets = [Path(mount.target) for mount in sandbox.mounts]
    return [
        line
        for target, source in sorted(sandbox.folders.items())
        if any(Path(target).is_relative_to(one) for one in targets) is hidden
        for line in _bind(Mount(source, target, True))
    ]


def _bind(mount: Mount) -> list[str]:
    target = f".{mount.target}"
    make = f"mkdir -p {_q(target)}"
    if not mount.source.is_dir():
        make = f"mkdir -p {_q(Path(target).parent)}; : >>{_q(target)}"
    exists = f"[ -e {_q(target)} ] || {{ {make}; }}"
    options = "nosuid,nodev" + (",ro" if mount.read_only else "")
    return [exists, f"mount --bind -o {options} {_q(mount.source)} {_q(target)}"]


def _q(text: Path | str) -> str:
    return shlex.quote(str(text))
