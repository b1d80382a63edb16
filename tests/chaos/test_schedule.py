from __future__ import annotations

from collections import Counter

from tests.chaos.faults.kinds import FAULTS, KILLS, ONCE, OTHERS
from tests.chaos.options import KILLS_PER_ROUND, Options
from tests.chaos.schedule import schedule

ALL = frozenset(FAULTS)


def test_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    assert schedule(1, [20, 20], ALL) == schedule(1, [20, 20], ALL)
    assert schedule(1, [20, 20], ALL) != schedule(2, [20, 20], ALL)


def test_as_many_kills_come_as_were_asked_for_and_every_kind_of_fault() -> None:
    plan = schedule(1, [40, 40], ALL)
    assert [sum(kind in KILLS for kind in kinds) for kinds in plan] == [40, 40]
    assert {kind for kinds in plan for kind in kinds} == ALL


def test_faults_come_as_often_as_their_weights_say() -> None:
    counts = Counter(schedule(1, [21 * 50], ALL)[0])
    assert all(counts[kind] == 50 * weight for kind, (weight, _) in KILLS.items())


def test_slow_kinds_come_once() -> None:
    counts = Counter(schedule(1, [500], ALL)[0])
    assert {counts[kind] for kind in ONCE} == {1}


def test_only_possible_kinds_come() -> None:
    plan = schedule(1, [10], frozenset({"kill"}))
    assert plan == [["kill"] * 10]
    assert schedule(1, [3], frozenset(OTHERS)) != [[]]


def test_long_campaigns_are_cut_into_rounds() -> None:
    assert Options(kills=20).rounds == [20]
    assert Options(kills=2 * KILLS_PER_ROUND + 1).rounds == [27, 27, 27]


def test_command_repeats_what_differs_from_the_defaults() -> None:
    options = Options(kills=5, seed=7, cells=1, only=frozenset({"kill", "stop"}), slow=True)
    assert options.command == (
        "python -m tests.chaos --kills 5 --seed 7 --mode cells --broker tansu --cells 1 --only kill,stop --slow"
    )
