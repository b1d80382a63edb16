"""Each rule of the contract finds the mistakes that it is there for, planted one at a time into what is deployed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.k8s.render import Resource, identity
from tests.k8s.static.contract import RULES, Deployment, Report
from tests.k8s.static.environments import deployed
from tests.k8s.static.variants import VARIANTS

pytestmark = pytest.mark.k8s

_POD = "/spec/template/spec"
_SHORT = {
    "MAIN": f"{_POD}/containers/0",
    "INIT": f"{_POD}/initContainers/0",
    "POD": _POD,
    "TOML": "/data/datastreamx.toml",
    "COMPONENT": "app.kubernetes.io~1component",
}


class Mistake(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"where": "in"}):
    """One change to one resource.

    Attributes:
        where: `Kind/name`, in which `*` stands for a hash or anything.
        at: Where in the resource; empty: the resource itself.
        put: What is put there.
        gone: Nothing is left there.
        append: What is put behind a list that is there.
        keep: How much of a list stays.
        replace: Text that is replaced, and by what.
        finds: Part of what the rule says.
        of: An environment, or a variant.
    """

    where: str
    at: str = ""
    put: Any = msgspec.UNSET
    gone: bool = False
    append: list[Any] = []
    keep: int | None = None
    replace: tuple[str, str] | None = None
    finds: str
    of: str = "prod"

    def plant(self, resources: list[Resource]) -> None:
        """Make it."""
        (place,) = (number for number, one in enumerate(resources) if fnmatch(identity(one), self.where))
        found: Any = resources
        key: Any = place
        if self.at:
            path = functools.reduce(lambda text, short: text.replace(*short), _SHORT.items(), self.at)
            found = resources[place]
            *parents, last = (part.replace("~1", "/") for part in path.strip("/").split("/"))
            for part in parents:
                found = found[int(part)] if isinstance(found, list) else found[part]
            key = int(last) if isinstance(found, list) else last
        if self.gone:
            del found[key]
        else:
            found[key] = self._value(found[key] if isinstance(found, list) else found.get(key))

    def _value(self, old: Any) -> Any:
        if self.replace is not None:
            assert self.replace[0] in old, f"{self.replace[0]!r} is not there"
            return old.replace(*self.replace)
        if self.keep is not None:
            return old[: self.keep]
        return [*old, *self.append] if self.append else self.put


MISTAKES = msgspec.convert(
    yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text(encoding="utf-8")), dict[str, list[Mistake]]
)


@functools.cache
def _deployed(environment: str, folder: Path) -> tuple[Resource, ...]:
    if environment in VARIANTS:
        return VARIANTS[environment].deployed(folder / environment)
    return deployed(environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


@pytest.mark.parametrize(
    ("rule", "mistake"),
    [
        pytest.param(rule, mistake, id=f"{rule.__name__}: {mistake.finds}")
        for rule in RULES
        for mistake in MISTAKES.get(rule.__name__, ())
    ],
)
def test_mistake_is_found(rule: Callable[[Deployment, Report], None], mistake: Mistake, folder: Path) -> None:
    resources = list(copy.deepcopy(_deployed(mistake.of, folder)))
    mistake.plant(resources)
    environment = VARIANTS[mistake.of].environment if mistake.of in VARIANTS else mistake.of
    report = Report()
    rule(Deployment(environment, tuple(resources)), report)
    assert [one for one in report.problems if mistake.finds in one], report.problems


def test_every_rule_has_a_mistake_that_it_finds() -> None:
    assert MISTAKES.keys() == {rule.__name__ for rule in RULES}
