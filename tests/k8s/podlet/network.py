"""A network of our own: a bridge of this machine, and a namespace with one address for each pod.

Pods have no route but to the bridge's subnet. The bridge has the subnet's first address, where the services listen that
stand in for the outside world.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import itertools
import json
import os
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.k8s.podlet import machine
from tests.k8s.podlet.machine import PodletError, run

_RANGE = ipaddress.IPv4Network("10.203.0.0/16")
_CLONE_NEWNET = 0x40000000
_setns = ctypes.CDLL(None, use_errno=True).setns


@dataclass(frozen=True)
class Link:
    """The network of one pod.

    Attributes:
        namespace: File that stands for it.
        address: Of the pod.
        interface: The end that is on the bridge.
    """

    namespace: Path
    address: str
    interface: str

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are the pod's."""
        with Path("/proc/thread-self/ns/net").open("rb") as home, self.namespace.open("rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def connect(self, port: int, timeout_s: float) -> socket.socket:
        """Connect from the pod's own namespace to a port of the pod, as a kubelet on its node would.

        Raises:
            OSError: Nobody listens, or not in time.
        """
        with self.inside():
            connection = socket.socket()
        connection.settimeout(timeout_s)
        try:
            connection.connect((self.address, port))
        except OSError:
            connection.close()
            raise
        return connection


class Network:
    """The bridge and the namespaces on it. Used by several threads."""

    def __init__(self) -> None:
        subnet = _free_subnet()
        hosts = [str(address) for address in subnet.hosts()]
        self.host = hosts[0]
        self.subnet = str(subnet)
        self._bridge = machine.name()
        self._table = f"ip {machine.name()}"
        self._addresses = itertools.cycle(hosts[1:])
        self._in_use: set[str] = set()
        self._lock = threading.Lock()
        run(
            *("ip", "-batch", "-"),
            stdin=f"link add {self._bridge} type bridge\n"
            f"address add {self.host}/{subnet.prefixlen} dev {self._bridge}\n"
            f"link set {self._bridge} up\n",
        )
        # What listens on this machine's loopback interface can be published to the pods.
        Path(f"/proc/sys/net/ipv4/conf/{self._bridge}/route_localnet").write_text("1", encoding="ascii")
        run(
            *("nft", "-f", "-"),
            stdin=f"table {self._table} {{ chain published {{ type nat hook prerouting priority dstnat; }}; }}",
        )

    def add_address(self) -> str:
        """Give this machine one more address on the bridge."""
        address = self._free_address()
        run("ip", "address", "add", f"{address}/32", "dev", self._bridge)
        return address

    def publish(self, address: str, port: int, local_port: int) -> None:
        """Let pods reach 127.0.0.1:`local_port` of this machine as `address`:`port`, an address of the bridge."""
        rule = f'iifname "{self._bridge}" ip daddr {address} tcp dport {port} dnat to 127.0.0.1:{local_port}'
        run("nft", f"add rule {self._table} published {rule}")

    def join(self) -> Link:
        """Make a namespace with an address that was not used lately."""
        address = self._free_address()
        name = machine.name(address.rpartition(".")[2])
        link = Link(machine.NAMESPACES / name, address, name)
        namespace = link.namespace.name
        prefix = self.subnet.partition("/")[2]
        run(
            *("ip", "-batch", "-"),
            stdin=f"netns add {namespace}\n"
            f"link add {link.interface} type veth peer name eth0 netns {namespace}\n"
            f"link set {link.interface} master {self._bridge} up\n",
        )
        with link.inside(), contextlib.suppress(FileNotFoundError):
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1", encoding="ascii")
        run(
            *("ip", "-netns", namespace, "-batch", "-"),
            stdin=f"link set lo up\naddress add {address}/{prefix} dev eth0\nlink set eth0 up\n",
        )
        return link

    def leave(self, link: Link) -> None:
        """Remove a namespace; its processes have ended."""
        run("ip", "netns", "delete", link.namespace.name)
        # The pair goes with the namespace when the kernel gets to it; the next pod may want the number sooner.
        with contextlib.suppress(PodletError):
            run("ip", "link", "delete", link.interface)
        with self._lock:
            self._in_use.discard(link.address)

    def _free_address(self) -> str:
        with self._lock:
            address = next(address for address in self._addresses if address not in self._in_use)
            self._in_use.add(address)
            return address

    @staticmethod
    def plug(link: Link, *, is_in: bool) -> None:
        """Connect a pod to the bridge, or cut it off."""
        run("ip", "link", "set", link.interface, "up" if is_in else "down")


class Hosts:
    """The hosts file of all pods: stands in for the cluster's DNS. Written in place, as it is mounted into pods."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.write_text("", encoding="ascii")
        path.chmod(0o644)

    def write(self, names: Mapping[str, Iterable[str]]) -> None:
        """Replace all names; each has any number of addresses."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, found in names.items() for address in found)]
        text = ("\n".join(lines) + "\n").encode()
        with self._lock, self.path.open("r+b", buffering=0) as file:
            if file.read() != text:
                os.pwrite(file.fileno(), text, 0)
                file.truncate(len(text))


def _free_subnet() -> ipaddress.IPv4Network:
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all"))
    taken = [
        ipaddress.IPv4Network(route["dst"], strict=False)
        for route in routes
        if route["dst"] != "default" and route.get("type") != "broadcast"
    ]
    for subnet in _RANGE.subnets(new_prefix=24):
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise PodletError(f"all of {_RANGE} is in use on this machine")


def _enter(namespace: int) -> None:
    if _setns(namespace, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
