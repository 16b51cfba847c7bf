"""The audit through a real channel: who reads it, where changes come from, what was refused."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import pytest

from controlplane.api.identification import Identification
from controlplane.domain.access.permissions import EVERYWHERE
from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.services.audit.refused import MAX_NOTED, OTHERS, Refusal, RefusedCalls
from controlplane.services.hub import Hub
from controlplane.services.read_model import ReadModel
from controlplane.settings import Settings
from controlplane.storage.memory.audit_log import MemoryAuditLog
from controlplane.storage.memory.ledger import MemoryLedger
from controlplane.storage.memory.store import MemoryStore
from fleetplane.v1 import agent_pb2, audit_service_pb2_grpc
from fleetplane.v1 import audit_service_pb2 as pb
from fleetplane.v1 import config_service_pb2 as config_pb
from fleetplane.v1 import registry_service_pb2 as registry_pb
from tests.fakes.callers import KnownCallers, agent, bind, make_namespace, showing, unbind, user
from tests.fakes.clock import FakeClock
from tests.fakes.eventually import eventually
from tests.fakes.memory_replica import MemoryReplica, memory_replica

pytestmark = pytest.mark.timeout(60)

ROOT, ANN, EVE = user("root", is_admin=True), user("ann"), user("eve")
AS_ROOT, AS_ANN, AS_EVE, AS_MINE = (showing(name) for name in ("root", "ann", "eve", "mine"))
FLOOD: Final = 10_000


class Place:
    """A replica that authenticates, with a team in which ann is an auditor and eve a viewer."""

    def __init__(self, replica: MemoryReplica) -> None:
        self.replica = replica
        self.ledger = MemoryLedger(replica.store)
        self.audit: Any = audit_service_pb2_grpc.AuditServiceStub(replica.channel)

    async def entries(self, namespace: str, who: Any = AS_ROOT, **fields: Any) -> list[Any]:
        request = pb.ListEventsRequest(namespace=namespace, page_size=1000, **fields)
        return list((await self.audit.ListEvents(request, metadata=who)).events)

    async def refusals(self, namespace: str, count: int = 1) -> list[Any]:
        """Return the refused calls in a namespace, once there are so many."""
        found: list[Any] = []

        async def written() -> bool:
            wanted = pb.AuditFilter(event="call.refused")
            found[:] = await self.entries(namespace, filter=wanted)
            return len(found) >= count

        await eventually("the refusals are written", written)
        return found


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    known = KnownCallers(root=ROOT, ann=ANN, eve=EVE, mine=agent("mine", "team"))
    who = Identification(known, reads_certificates=False)
    async with memory_replica(Settings(secure=True), who) as replica:
        here = Place(replica)
        await make_namespace(here.ledger, "team")
        await make_namespace(here.ledger, "secret")
        await bind(here.ledger, ANN, "auditor", "team")
        await bind(here.ledger, EVE, "viewer", "team")
        await replica.config.UpdateConfig(_change("team"), metadata=AS_ROOT)
        yield here


def _change(namespace: str, temperature: float = 0.5) -> config_pb.UpdateConfigRequest:
    request = config_pb.UpdateConfigRequest(namespace=namespace)
    request.set.update({"temperature": temperature})
    return request


async def code_of(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value.code().name


async def test_a_change_says_who_made_it_and_from_where(place):
    (entry,) = await place.entries("team", filter=pb.AuditFilter(method="UpdateConfig"))
    assert (entry.actor, entry.caller_kind) == ("user:root", "user")
    assert entry.address.startswith("ipv4:127.0.0.1:")
    assert entry.event == "config.updated"


async def test_what_the_plane_does_by_itself_has_no_address(place):
    system = await place.entries(SYSTEM_NAMESPACE)
    assert {entry.address for entry in system} == {""}


async def test_who_may_not_read_the_audit_of_a_namespace_does_not(place):
    for namespace, who, code in (
        ("team", AS_ANN, ""),
        ("team", AS_EVE, "PERMISSION_DENIED"),
        ("team", AS_MINE, "PERMISSION_DENIED"),
        ("secret", AS_ANN, "NOT_FOUND"),
        (SYSTEM_NAMESPACE, AS_ANN, "PERMISSION_DENIED"),
        (SYSTEM_NAMESPACE, AS_ROOT, ""),
        (EVERYWHERE, AS_ROOT, "INVALID_ARGUMENT"),
    ):
        call = place.audit.ListEvents(pb.ListEventsRequest(namespace=namespace), metadata=who)
        if code:
            assert await code_of(call) == code
        else:
            await call
        stream = place.audit.VerifyAudit(pb.VerifyAuditRequest(namespace=namespace), metadata=who)
        if code:
            assert await code_of(stream.read()) == code
        else:
            await stream.read()
            stream.cancel()


async def test_an_auditor_trims_nothing(place):
    request = pb.TrimAuditRequest(
        namespace="team", checkpoint=pb.AuditCheckpoint(sequence=1, head="0" * 64)
    )
    assert await code_of(place.audit.TrimAudit(request, metadata=AS_ANN)) == "PERMISSION_DENIED"
    confirm = pb.ConfirmAuditExportRequest(namespace="team", checkpoint=request.checkpoint)
    call = place.audit.ConfirmAuditExport(confirm, metadata=AS_ANN)
    assert await code_of(call) == "PERMISSION_DENIED"


async def test_watchers_of_one_namespace_hear_nothing_of_another(place):
    watch = place.audit.WatchEvents(pb.WatchEventsRequest(namespace="team"), metadata=AS_ANN)
    first = await watch.read()
    await place.replica.config.UpdateConfig(_change("secret"), metadata=AS_ROOT)
    await place.replica.config.UpdateConfig(_change("team", 0.25), metadata=AS_ROOT)
    event = (await watch.read()).event
    assert event.sequence == first.bookmark + 1
    assert event.object == "config/namespace"
    watch.cancel()


async def test_the_cursor_of_one_audit_is_useless_in_another(place):
    await place.replica.config.UpdateConfig(_change("team", 0.25), metadata=AS_ROOT)
    first = pb.ListEventsRequest(namespace="team", page_size=1)
    page = await place.audit.ListEvents(first, metadata=AS_ROOT)
    assert page.next_page_token
    for namespace in ("secret", SYSTEM_NAMESPACE):
        again = pb.ListEventsRequest(
            namespace=namespace, page_size=1, page_token=page.next_page_token
        )
        assert await code_of(place.audit.ListEvents(again, metadata=AS_ROOT)) == "INVALID_ARGUMENT"


async def test_a_stream_of_the_audit_ends_with_the_right_to_read_it(place):
    watch = place.audit.WatchEvents(pb.WatchEventsRequest(namespace="team"), metadata=AS_ANN)
    await watch.read()
    await unbind(place.ledger, "rb-user:ann-auditor-team")
    assert await code_of(watch.read()) == "NOT_FOUND"


async def test_a_change_that_was_refused_stands_where_the_caller_may_know_of_it(place):
    update = place.replica.config.UpdateConfig
    assert await code_of(update(_change("team"), metadata=AS_EVE)) == "PERMISSION_DENIED"
    assert await code_of(update(_change("secret"), metadata=AS_EVE)) == "NOT_FOUND"
    assert await code_of(update(_change("nowhere"), metadata=AS_EVE)) == "NOT_FOUND"
    assert await code_of(update(_change("team"))) == "UNAUTHENTICATED"
    assert await code_of(update(_change("team"), metadata=showing("stolen"))) == "UNAUTHENTICATED"
    (here,) = await place.refusals("team")
    assert (here.actor, here.caller_kind, here.reason) == ("user:eve", "user", "PERMISSION_DENIED")
    assert (here.object, here.method) == ("methods/UpdateConfig", "UpdateConfig")
    assert here.address == "ipv4:127.0.0.1"
    assert here.details["count"] == "1"
    elsewhere = await place.refusals(SYSTEM_NAMESPACE, 3)
    assert {(one.actor, one.reason, one.details["count"]) for one in elsewhere} == {
        ("user:eve", "NAMESPACE_NOT_FOUND", "2"),
        ("anonymous", "CREDENTIAL_MISSING", "1"),
        ("anonymous", "CREDENTIAL_INVALID", "1"),
    }
    assert (await MemoryAuditLog(place.replica.store).extent("nowhere")).last == 0
    assert "stolen" not in json.dumps([str(one) for one in elsewhere])


async def test_what_is_only_wrong_is_no_refusal(place):
    wrong = config_pb.UpdateConfigRequest(namespace="team")
    wrong.set.update({"temperature": "hot"})
    call = place.replica.config.UpdateConfig(wrong, metadata=AS_ROOT)
    assert await code_of(call) == "INVALID_ARGUMENT"
    looking = place.replica.registry.GetAgent(
        registry_pb.GetAgentRequest(namespace="secret", agent_id="x"), metadata=AS_EVE
    )
    assert await code_of(looking) == "NOT_FOUND"
    assert await code_of(place.replica.config.UpdateConfig(_change("team"))) == "UNAUTHENTICATED"
    (only,) = await place.refusals(SYSTEM_NAMESPACE)
    assert only.reason == "CREDENTIAL_MISSING"


async def test_a_flood_of_refusals_makes_few_entries(place):
    async def knock(count: int) -> None:
        for _ in range(count):
            await code_of(place.replica.config.UpdateConfig(_change("team"), metadata=AS_EVE))

    begun = time.monotonic()
    await asyncio.gather(*(knock(100) for _ in range(10)))
    periods = (time.monotonic() - begun) / 2 + 2

    async def all_counted() -> bool:
        entries = await place.refusals("team")
        return sum(int(one.details["count"]) for one in entries) == 1000

    await eventually("all of them are counted", all_counted)
    reasons = {one.reason for one in await place.refusals("team")}
    assert len(await place.refusals("team")) <= periods * len(reasons)


async def test_any_number_of_refusals_takes_bounded_memory():
    clock = FakeClock()
    store = MemoryStore(clock)
    read_model = ReadModel(Hub())
    read_model.ready = True
    refused = RefusedCalls(MemoryLedger(store), read_model, clock)
    for number in range(FLOOD):
        refused.note(
            Refusal(
                namespace="",
                actor=f"user:{number}",
                caller_kind="user",
                network="10.0.0.1",
                method="Register",
                reason="PERMISSION_DENIED",
            ),
            "r-1",
        )
    assert refused.noted == MAX_NOTED + 1
    assert await refused.write() == MAX_NOTED + 1
    audit = await MemoryLedger(store).read_audit(SYSTEM_NAMESPACE, limit=FLOOD)
    counts = {entry.actor: int(entry.details["count"]) for _, _, entry in audit}
    assert len(counts) == MAX_NOTED + 1
    assert counts[OTHERS] == FLOOD - MAX_NOTED
    assert await refused.write() == 0


async def test_no_secret_gets_into_the_audit(place):
    planted = "planted-secret-4711"
    registry = place.replica.registry
    spec = agent_pb2.AgentSpec(name="reader", version="1.0.0", description="plain")
    await registry.Register(
        registry_pb.RegisterRequest(namespace="team", spec=spec),
        metadata=(*AS_ROOT, ("x-api-key", planted), ("cookie", planted)),
    )
    call = registry.Register(
        registry_pb.RegisterRequest(namespace="team", spec=spec),
        metadata=(("authorization", f"Bearer {planted}"), ("x-request-id", "ok")),
    )
    assert await code_of(call) == "UNAUTHENTICATED"
    await place.refusals(SYSTEM_NAMESPACE)
    for namespace in ("team", SYSTEM_NAMESPACE):
        entries = await MemoryAuditLog(place.replica.store).entries(namespace, after=0, limit=999)
        assert planted.encode() not in b"".join(entry.data for entry in entries)
