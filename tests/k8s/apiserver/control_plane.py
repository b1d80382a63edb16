"""etcd, API server, controller manager, scheduler and kwok as children of this process, on loopback."""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from simulator.processes import Child, ChildError, free_port
from tests.k8s.apiserver.client import Client, RefusedError
from tests.k8s.tools import tool

# Who calls the API server, and in which group; RBAC's own bindings say what each may do.
_USERS: Final = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    # It changes the status of everything and makes volumes, as kubelets and a storage driver would.
    "kwok": "system:masters",
}
_STAGES = Path(__file__).with_name("stages.yaml")
_ATTEMPTS = 3
_READY_WITHIN_S = 90.0
# A report shows the end of each log, and where the whole is.
_LOG_LINES = 6
_LINE_CHARS = 400


class ControlPlane:
    """One control plane with its own certificates, tokens, ports and data, all of it gone when it is left.

    Args:
        folder: Where certificates, data and logs go; an empty folder that the caller keeps or removes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.authority = folder / "authority.pem"
        self._tokens = {user: secrets.token_hex(16) for user in _USERS}
        self._children: list[Child] = []

    def client(self, *, token: str | None = None, impersonate: str | None = None) -> Client:
        """Call the API server as the administrator, or as whoever has this token."""
        return Client(self.url, self.authority, token or self._tokens["admin"], impersonate=impersonate)

    def __enter__(self) -> Self:
        try:
            self._make_secrets()
            self._start_storage_and_server()
            self._start_controllers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def logs(self) -> str:
        """The end of what each process wrote."""
        return "\n".join(f"--- {child.name}: {child.log_path}\n{_shortened(child)}" for child in self._children)

    def _make_secrets(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        server = authority.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc")
        server.private_key_and_cert_chain_pem.write_to_path(self.folder / "server.pem")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "service-accounts.pem").write_bytes(pem)
        rows = (f'{self._tokens[user]},{user},{user},"{group}"\n' for user, group in _USERS.items())
        (self.folder / "tokens.csv").write_text("".join(rows))

    def _start_storage_and_server(self) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            # A port that was free may be taken before its process binds it.
            client_port, peer_port, server_port = free_port(), free_port(), free_port()
            self.url = f"https://127.0.0.1:{server_port}"
            try:
                self._start("etcd", self._etcd(client_port, peer_port))
                self._start("kube-apiserver", self._server(server_port, client_port), is_ready=self._answers)
            except ChildError as error:
                self._stop()
                if attempt == _ATTEMPTS or "address already in use" not in str(error):
                    raise
            else:
                return

    def _start_controllers(self) -> None:
        configuration = self._kubeconfig("system:kube-controller-manager")
        self._start(
            "kube-controller-manager",
            [
                f"--kubeconfig={configuration}",
                # It starts as itself and gives each controller an account of its own, with that controller's rights.
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={self.folder}/service-accounts.pem",
                f"--root-ca-file={self.authority}",
                *("--leader-elect=false", "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400"),
                # A busy machine is not a lost node: kwok may be late with their leases.
                "--node-monitor-grace-period=30m",
            ],
        )
        settings = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {
                "kubeconfig": str(self._kubeconfig("system:kube-scheduler")),
                "qps": 200,
                "burst": 400,
            },
            "leaderElection": {"leaderElect": False},
            # A pod that found no place is tried again soon after a node or a volume came.
            "podMaxBackoffSeconds": 1,
        }
        path = self.folder / "scheduler.json"
        path.write_text(json.dumps(settings))
        self._start("kube-scheduler", [f"--config={path}", "--secure-port=0"])
        self._start(
            "kwok",
            [
                f"--kubeconfig={self._kubeconfig('kwok')}",
                f"--config={_STAGES}",
                *("--manage-all-nodes=true", "--node-lease-duration-seconds=600"),
                *("--node-ip=127.0.0.1", "--cidr=10.64.0.0/16", "--v=WARN"),
            ],
        )

    def _etcd(self, client_port: int, peer_port: int) -> list[str]:
        clients, peers = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
        return [
            "--name=test",
            f"--data-dir={self.folder}/etcd",
            *(f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}"),
            *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
            f"--initial-cluster=test={peers}",
            # Nobody will read this after a power cut.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _server(self, port: int, etcd_port: int) -> list[str]:
        accounts = f"{self.folder}/service-accounts.pem"
        return [
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            *("--bind-address=127.0.0.1", f"--secure-port={port}", "--endpoint-reconciler-type=none"),
            *(f"--tls-cert-file={self.folder}/server.pem", f"--tls-private-key-file={self.folder}/server.pem"),
            *("--authorization-mode=RBAC", f"--token-auth-file={self.folder}/tokens.csv"),
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-key-file={accounts}", f"--service-account-signing-key-file={accounts}"),
            "--service-cluster-ip-range=10.96.0.0/16",
            # As in GKE: whether a pod may be privileged is for Pod Security to say.
            "--allow-privileged=true",
        ]

    def _kubeconfig(self, user: str) -> Path:
        path = self.folder / f"{user.rpartition(':')[2]}.kubeconfig"
        settings = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.authority)}}
            ],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path.write_text(json.dumps(settings))
        return path

    def _answers(self, _child: Child) -> bool:
        client = self.client()
        try:
            client.request("GET", "/readyz")
        except (OSError, ssl.SSLError, RefusedError):
            return False
        finally:
            client.close()
        return True

    def _start(self, name: str, arguments: list[str], is_ready: Callable[[Child], bool] | None = None) -> None:
        child = Child(
            name,
            [str(tool(name)), *arguments],
            log_path=self.folder / "logs" / f"{name}.log",
            is_ready=is_ready,
            ready_within_s=_READY_WITHIN_S,
        )
        self._children.append(child)
        child.start()

    def _stop(self) -> None:
        # In the order of dependence, the last first: nobody then fills its log with a lost server.
        while self._children:
            self._children.pop().kill()


def _shortened(child: Child) -> str:
    return "\n".join(line[:_LINE_CHARS] for line in child.log_tail(_LOG_LINES).splitlines())
