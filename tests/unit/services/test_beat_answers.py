"""What a beat is answered in every standing that its agent and its instance can have."""

from dataclasses import replace
from itertools import product

import pytest

from controlplane.domain.agents import Activation, AgentStatus, InstanceState
from controlplane.services.ports import Collection, Put
from tests.fakes.fleet import FakeBeat, Fleet

AUTO, MANUAL = Activation.AUTO, Activation.MANUAL
BY_HAND = "it is activated by hand only"
BY_AN_OPERATOR = "an operator stopped it"

ACCEPTED: tuple[str, str] | None = None

TABLE = [
    # status, status_reason, activation, the answer, the status afterwards
    (AgentStatus.REGISTERED, "", AUTO, ACCEPTED, AgentStatus.ACTIVE),
    (AgentStatus.REGISTERED, "denied before", AUTO, ACCEPTED, AgentStatus.ACTIVE),
    (AgentStatus.REGISTERED, "", MANUAL, ("NOT_ACTIVATED", BY_HAND), AgentStatus.REGISTERED),
    (AgentStatus.REGISTERED, "new", MANUAL, ("NOT_ACTIVATED", BY_HAND), AgentStatus.REGISTERED),
    *(
        (status, reason, activation, ACCEPTED, AgentStatus.ACTIVE)
        for (status, reason), activation in product(
            [
                (AgentStatus.ACTIVE, ""),
                (AgentStatus.DEGRADED, ""),
                (AgentStatus.INACTIVE, "LOST"),
                (AgentStatus.INACTIVE, "STOPPED"),
            ],
            [AUTO, MANUAL],
        )
    ),
    *(
        (AgentStatus.INACTIVE, reason, activation, ("INACTIVE", said), AgentStatus.INACTIVE)
        for (reason, said), activation in product(
            [("maintenance", "maintenance"), ("", BY_AN_OPERATOR)], [AUTO, MANUAL]
        )
    ),
    *(
        (AgentStatus.DECOMMISSIONED, reason, activation, ("GONE", ""), AgentStatus.DECOMMISSIONED)
        for reason, activation in product(["", "replaced"], [AUTO, MANUAL])
    ),
]


@pytest.mark.parametrize("state", list(InstanceState))
@pytest.mark.parametrize(("status", "reason", "activation", "answer", "afterwards"), TABLE)
async def test_a_beat_is_answered_by_the_standing_of_its_agent(
    status, reason, activation, answer, afterwards, state
):
    fleet = Fleet()
    generation = (await fleet.register("a", "i", activation=activation))["i"]
    instance = await fleet.instance("i")
    assert instance is not None
    await fleet.commit(Put(Collection.INSTANCES, "i", replace(instance, state=state)))
    await fleet.change_agent("a", status=status, status_reason=reason)
    expected = [] if answer is None else [answer]
    view = fleet.replica.view
    for follows in (False, False, True, True):
        # Twice before this replica hears of its own commit, and twice after.
        unusual = fleet.replica.intake.accept(view, [FakeBeat("i", generation)])
        outcomes = await fleet.replica.liveness.settle(view.name, unusual)
        assert [(str(one.outcome), one.detail) for one in outcomes] == expected
        if follows:
            await fleet.replica.follow()
    assert (await fleet.agent("a")).status is afterwards
    lives = InstanceState.FRESH if status is not AgentStatus.DECOMMISSIONED else state
    instance = await fleet.instance("i")
    assert instance is not None
    assert instance.state is lives


def test_the_table_has_every_status_with_every_activation():
    assert {(row[0], row[2]) for row in TABLE} == set(product(AgentStatus, Activation))
