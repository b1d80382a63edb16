from __future__ import annotations

import pytest

from datastreamx.config import Config
from datastreamx.errors import ConfigError
from datastreamx.place import ORDINAL_VARIABLE, Place, place_of
from tests import builders


def scaled(scaling: str, partitions: int = 8) -> Config:
    return builders.config(f"[events]\npartitions = {partitions}\n[scaling]\n{scaling}\n")


@pytest.mark.parametrize("cells", [1, 2, 3, 8])
def test_every_partition_belongs_to_exactly_one_cell(cells: int) -> None:
    config = scaled(f"cells = {cells}")
    owned = [p for ordinal in range(cells) for p in place_of(config, ordinal).partitions(config.events.partitions)]
    assert sorted(owned) == [*range(config.events.partitions)]


def test_processes_of_a_cluster_read_everything_together_and_one_keeps_the_store() -> None:
    config = scaled('mode = "cluster"\naddresses = ["a:1", "b:2"]')
    places = [place_of(config, ordinal) for ordinal in range(2)]
    assert {(place.partitions(8), place.readers, place.addresses) for place in places} == {
        (range(8), 2, ("a:1", "b:2"))
    }
    assert [place.keeps_store for place in places] == [True, False]
    assert [place.store_name("ads") for place in places] == ["ads-cluster", "ads-cluster-peer-1"]


def test_cell_has_one_reader_and_a_store_of_its_own() -> None:
    place = place_of(scaled("cells = 3"), 2)
    assert (place.readers, place.keeps_store, place.store_name("ads")) == (1, True, "ads-2")


def test_ordinal_comes_from_the_environment_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    config = scaled("cells = 3")
    assert place_of(config).ordinal == 0
    monkeypatch.setenv(ORDINAL_VARIABLE, "2")
    assert place_of(config).ordinal == 2
    assert place_of(config, 1).ordinal == 1


@pytest.mark.parametrize("text", ["3", "-1", "one", ""])
def test_ordinal_that_does_not_exist_is_refused_with_those_that_do(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(ORDINAL_VARIABLE, text)
    with pytest.raises(ConfigError, match=r"0 to 2|number from 0"):
        place_of(scaled("cells = 3"))


@pytest.mark.parametrize(
    ("scaling", "problem"),
    [
        ("cells = 9", "must not exceed events.partitions"),
        ('addresses = ["a:1"]', "is for mode"),
        ('mode = "cluster"', "has to name each process"),
        ('mode = "cluster"\naddresses = ["a:1", "a:1"]', "has to name each process"),
        (f'mode = "cluster"\naddresses = {[f"a:{port}" for port in range(9)]}', "names 9 processes, more than"),
    ],
)
def test_scaling_that_cannot_work_is_refused(scaling: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        scaled(scaling)


def test_default_place_is_the_only_cell() -> None:
    assert Place().partitions(4) == range(4)
