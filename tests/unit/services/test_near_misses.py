"""Who came closest: those that fail the fewest conditions."""

import pytest

from controlplane.domain.selection import AgentFilter, RejectionReason
from controlplane.services.near_misses import near_misses
from tests.fakes.registered import Replica, an_agent


@pytest.fixture
def replica():
    return Replica()


def test_near_misses_are_those_that_fail_least(replica):
    replica.write(
        an_agent("two-wrong", capabilities=("x",), owner="b", model="n"),
        an_agent("no-capability", owner="a", model="m"),
        an_agent("wrong-model", capabilities=("x",), owner="a", model="n"),
        an_agent("match", capabilities=("x",), owner="a", model="m"),
    )
    wanted = AgentFilter(capabilities=("x",), owner="a", model="m")

    misses = near_misses(replica.view.index, wanted, 10)

    assert [agent_id for agent_id, *_ in misses] == ["wrong-model", "no-capability", "two-wrong"]
    assert near_misses(replica.view.index, wanted, 1) == misses[:1]


def test_near_misses_of_a_capability_nobody_has_are_the_others(replica):
    replica.write(*(an_agent(f"agt-{n:04}", capabilities=("x",)) for n in range(3000)))

    misses = near_misses(replica.view.index, AgentFilter(capabilities=("x", "y")), 3)

    assert misses == [
        (f"agt-{n:04}", RejectionReason.CAPABILITY, 'lacks capability "y"') for n in range(3)
    ]
