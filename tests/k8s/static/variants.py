"""Components that no overlay uses, each in one that it fits: rendered and judged like the overlays themselves."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.k8s.render import K8S, Resource
from tests.k8s.static.contract.model import FLOWS
from tests.k8s.static.environments import deployed

_PROCESSES = 2
_PORT = 2101


@dataclass(frozen=True, slots=True)
class Variant:
    """An overlay that is different.

    Attributes:
        environment: Its name.
        change: Makes it different, in a copy of its folder.
    """

    environment: str
    change: Callable[[Path], None]

    def deployed(self, folder: Path) -> tuple[Resource, ...]:
        """Make it in a copy of k8s/ below `folder`; all its resources and Jobs."""
        k8s = folder / "k8s"
        shutil.copytree(K8S, k8s, ignore=shutil.ignore_patterns("terraform"))
        self.change(k8s / "overlays" / self.environment)
        return deployed(self.environment, k8s)


def _with(component: str) -> Callable[[Path], None]:
    def change(overlay: Path) -> None:
        _replace(overlay / "kustomization.yaml", "components:\n", f"components:\n  - ../../components/{component}\n")

    return change


def _as_clusters(overlay: Path) -> None:
    """One Bytewax cluster per flow, each of which needs addresses, and so a configuration, of its own."""
    path = overlay / "kustomization.yaml"
    text = (overlay / "datastreamx.toml").read_text(encoding="utf-8")
    maps = ""
    for flow in FLOWS:
        addresses = ", ".join(f'"{flow}-{ordinal}.{flow}:{_PORT}"' for ordinal in range(_PROCESSES))
        scaling = f'[scaling]\nmode = "cluster"\naddresses = [{addresses}]\n'
        changed, count = re.subn(r"\[scaling\]\n(?:\w.*\n)+", scaling, text)
        assert count == 1, "datastreamx.toml has no section [scaling]"
        (overlay / f"{flow}.toml").write_text(changed, encoding="utf-8")
        maps += f"  - name: datastreamx-{flow}\n    files: [datastreamx.toml={flow}.toml]\n"
    _replace(path, "components/cells", "components/cluster")
    _replace(path, "configMapGenerator:\n", f"configMapGenerator:\n{maps}")


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path}: {old!r} is there {text.count(old)} times"
    path.write_text(text.replace(old, new), encoding="utf-8")


VARIANTS: dict[str, Variant] = {
    "cluster": Variant("dev", _as_clusters),
    "fqdn-egress": Variant("prod", _with("fqdn-egress")),
    "otel": Variant("staging", _with("otel")),
    "stateful-ha": Variant("prod", _with("stateful-ha")),
}
"""By the component that they are about."""
