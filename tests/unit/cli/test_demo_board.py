import asyncio

from controlplane.cli.demo_agent import Crew, agent_name
from controlplane.cli.demo_board import Board, Happening
from fleetplane import AgentsChanged, AgentsSnapshot, AgentStatus, Position
from fleetplane.v1 import agent_pb2

HERE = Position("e", 1)


def agent(number: int, status: AgentStatus, *, completed: int = 0) -> agent_pb2.Agent:
    return agent_pb2.Agent(
        agent_id=f"a{number}",
        spec=agent_pb2.AgentSpec(name=agent_name(number)),
        status=agent_pb2.AgentStatus.ValueType(status),
        instances=[agent_pb2.Instance(load=agent_pb2.InstanceLoad(completed=completed))],
    )


def board(told: list[Happening]) -> Board:
    return Board([agent_name(0), agent_name(1)], told.append)


async def test_changes_of_status_are_told_and_first_sights_are_not() -> None:
    told: list[Happening] = []
    known = board(told)
    await known.apply(AgentsSnapshot((agent(0, AgentStatus.ACTIVE),), HERE))
    assert told == []
    await known.apply(AgentsChanged((agent(0, AgentStatus.DEGRADED),), (), HERE))
    (happening,) = told
    details = happening.as_dict()
    assert (details["event"], details["before"], details["after"]) == (
        "transition",
        "ACTIVE",
        "DEGRADED",
    )
    assert known.counts["ACTIVE->DEGRADED"] == 1


async def test_agents_of_earlier_demos_are_ignored() -> None:
    known = board([])
    await known.apply(AgentsSnapshot((agent(7, AgentStatus.INACTIVE),), HERE))
    assert known.agents == {}


async def test_a_look_brings_loads_but_never_a_status_before_the_watch() -> None:
    told: list[Happening] = []
    known = board(told)
    await known.apply(AgentsSnapshot((agent(0, AgentStatus.ACTIVE),), HERE))
    known.refresh([agent(0, AgentStatus.DEGRADED, completed=9)])
    assert known.in_status(AgentStatus.ACTIVE) == 1
    known.refresh([agent(0, AgentStatus.ACTIVE, completed=9), agent(1, AgentStatus.ACTIVE)])
    assert known.agents[agent_name(0)].instances[0].load.completed == 9
    assert agent_name(1) not in known.agents


async def test_a_wait_ends_when_all_are_there_and_says_when_time_is_up() -> None:
    known = board([])
    waiting = asyncio.create_task(known.until(AgentStatus.ACTIVE, known.names, 10))
    await known.apply(AgentsSnapshot((agent(0, AgentStatus.ACTIVE),), HERE))
    assert not waiting.done()
    await known.apply(AgentsChanged((agent(1, AgentStatus.ACTIVE),), (), HERE))
    assert await waiting
    assert not await known.until(AgentStatus.DEGRADED, known.names, 0.01)


def test_names_are_stable_and_distinct() -> None:
    names = [agent_name(number) for number in range(200)]
    assert len(set(names)) == 200
    assert names[:2] == ["demo-researcher-000", "demo-writer-001"]
    assert Crew(address="a", namespace="n", run="r", agents=[1]).agents == [1]
