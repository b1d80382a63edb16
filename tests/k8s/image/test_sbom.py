from __future__ import annotations

from dataclasses import replace

import pytest
from packaging.utils import canonicalize_name

from tests.k8s.image.building import Built
from tests.k8s.image.locks import read_lock
from tests.k8s.image.sbom import LOCK, Bill, SbomError, below, bill_of_materials, of_lock, problem_of
from tests.k8s.tally import Tally

pytestmark = pytest.mark.timeout(900)

LOCKED = read_lock(LOCK)


@pytest.fixture(scope="module")
def bill() -> Bill:
    return bill_of_materials()


def document(*components: Bill) -> Bill:
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [*components]}


@pytest.mark.k8s
def test_bill_is_valid_and_a_broken_one_is_not(bill: Bill, tally: Tally) -> None:
    assert problem_of(bill) is None
    assert "nonsense" in (problem_of(document({**bill["components"][0], "type": "nonsense"})) or "")
    tally("cyclonedx", len(bill["components"]))


@pytest.mark.k8s
def test_every_locked_package_is_listed_with_its_address_and_all_hashes(bill: Bill) -> None:
    components: dict[str, Bill] = {canonicalize_name(one["name"]): one for one in bill["components"]}
    assert components.keys() == LOCKED.keys()
    for name, entry in LOCKED.items():
        component = components[name]
        assert component["version"] == entry.version
        assert canonicalize_name(component["purl"].partition("@")[0].rpartition("/")[2]) == name
        assert component["purl"].endswith(f"@{entry.version}")
        (files,) = [one for one in component["externalReferences"] if one.get("hashes")]
        assert {one["content"] for one in files["hashes"]} == entry.hashes


@pytest.mark.k8s
def test_bill_tells_licences_and_what_needs_what(bill: Bill) -> None:
    assert [component["name"] for component in bill["components"] if not component.get("licenses")] == []
    needs = {one["ref"]: set(one["dependsOn"]) for one in bill["dependencies"]}
    root = bill["metadata"]["component"]
    assert root["name"] == "datastreamx"
    reached, waiting = set(), {root["bom-ref"]}
    while waiting:
        reference = waiting.pop()
        reached.add(reference)
        waiting |= needs.get(reference, set()) - reached
    # Nothing is there for no reason, and nothing is named that is not there.
    assert reached == {component["bom-ref"] for component in bill["components"]} | {root["bom-ref"]}


@pytest.mark.k8s
def test_no_bill_is_written_of_what_is_not_installed(bill: Bill) -> None:
    other = {**LOCKED, "numba": replace(LOCKED["numba"], version="0.0.1")}
    with pytest.raises(SbomError, match="of numba: run `make`"):
        of_lock(bill, other)


@pytest.mark.image
def test_bill_of_an_image_lists_its_debian_packages_and_its_interpreter(built: Built, tally: Tally) -> None:
    components = below(built.name)
    assert problem_of(document(*components)) is None
    addresses = [component["purl"] for component in components]
    assert len(addresses) == len(set(addresses))
    assert any(address.startswith("pkg:deb/debian/ca-certificates@") for address in addresses)
    assert any(address.startswith("pkg:generic/python@3.11.") for address in addresses)
    tally("cyclonedx", len(addresses))
