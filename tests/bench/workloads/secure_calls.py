"""16: the hot calls with TLS, credentials and authorisation on, against a floor that speaks TLS.

In plain text, with a token over TLS and with a certificate over mTLS, in turns. What is asked for
is that security costs no more than it costs the floor: what is left of a call's share of the floor.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from fleetplane.v1 import policy_service_pb2, task_service_pb2
from tests.bench.driving import Load, Operation, closed_loop, unary_callers
from tests.bench.fleet import REGISTRY, Member
from tests.bench.plan import Plan
from tests.bench.results import Row, Window
from tests.bench.secure_sides import NAMESPACE, OWN, SecureSides, Side, secure_rows, turns_of
from tests.bench.servers import Server, can
from tests.bench.task_fleet import CAPABILITY, PAYLOAD, TASKS
from tests.bench.wire import unary
from tests.bench.workloads.decisions import POLICY, evaluation_item
from tests.bench.workloads.discovery import questions

CALLERS: Final = 64
MEMBERS: Final = 10_000
EVALUATIONS: Final = 50
BATCH_CALLERS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A hot call."""

    method: str
    request_of: Callable[[Member], bytes]
    callers: int = CALLERS
    operations: int = 1
    """What one call counts as."""

    @property
    def name(self) -> str:
        name = self.method.rpartition("/")[2]
        return name if self.operations == 1 else f"{name}({self.operations}), per decision"


def _evaluation(member: Member) -> bytes:
    item = evaluation_item(member.agent_id, 50)
    return policy_service_pb2.EvaluatePolicyRequest(
        agent_id=item.agent_id, action=item.action, context=item.context
    ).SerializeToString()


def _evaluations(member: Member) -> bytes:
    items = [evaluation_item(member.agent_id, number) for number in range(EVALUATIONS)]
    return policy_service_pb2.BatchEvaluatePolicyRequest(items=items).SerializeToString()


def _submission(_member: Member) -> bytes:
    """Return a task that waits, because nobody in the fleet can do it."""
    spec = task_service_pb2.TaskSpec(kind="summarize", capabilities=[CAPABILITY])
    return task_service_pb2.SubmitTaskRequest(spec=spec, payload=PAYLOAD).SerializeToString()


def _question(name: str) -> _Call:
    asked = questions()[name]
    return _Call(method=f"{REGISTRY}{name}", request_of=lambda _member: asked)


_EVALUATE: Final = _Call(method=f"{POLICY}EvaluatePolicy", request_of=_evaluation)
_CALLS: Final = (
    _question("FindBestAgent"),
    _question("Discover"),
    _EVALUATE,
    _Call(
        method=f"{POLICY}BatchEvaluatePolicy",
        request_of=_evaluations,
        callers=BATCH_CALLERS,
        operations=EVALUATIONS,
    ),
    _Call(method=f"{TASKS}SubmitTask", request_of=_submission),
)


async def run(plan: Plan) -> list[Row]:
    """Measure each call on every side, and a decision for an agent that asks about itself."""
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        sides = SecureSides(stack, plan.sized(MEMBERS, 400))
        await sides.open()
        for call in _CALLS:
            rows += await _measured(plan, call, (sides.plain, sides.token, sides.certificate))
        rows += await _measured(plan, _EVALUATE, (sides.plain, await _agent(sides)))
    return rows


async def _agent(sides: SecureSides) -> Side:
    """Return the side of an agent of the fleet that has nothing but its certificate."""
    identity = await sides.administrator.identity(NAMESPACE, "worker-000000")
    side = await sides.behind_mtls(OWN, identity)
    side.members.append(sides.certificate.members[0])
    return side


async def _measured(plan: Plan, call: _Call, sides: Sequence[Side]) -> list[Row]:
    loads: list[tuple[Side, Load, Load]] = []
    for side in sides:
        request = call.request_of(side.members[0])
        ask = unary(side.daemon.channel, call.method, side.daemon.metadata)
        await can(sides[0].floor, call.method, await ask(request))
        loads.append((side, _load(side.daemon, call, request), _load(side.floor, call, request)))
    return secure_rows(16, call.name, await turns_of(plan, loads))


def _load(server: Server, call: _Call, request: bytes) -> Load:
    callers: list[Operation] = unary_callers(server, call.method, request, call.callers)

    async def load(seconds: float) -> Window:
        return await closed_loop(server, callers, seconds, per_operation=call.operations)

    return load
