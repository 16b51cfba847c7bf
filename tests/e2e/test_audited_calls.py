"""Every call that changes something leaves its entries in the audit, and nothing else does."""

import contextlib
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any, Final

import grpc
import pytest
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

import fleetplane.v1
from controlplane.api.methods import METHODS
from fleetplane.v1 import audit_service_pb2 as pb
from tests.e2e.audited_calls import FIRST, LAST
from tests.e2e.audited_governance import ROWS as GOVERNANCE
from tests.e2e.audited_rows import NAMESPACE, Row, Step, World
from tests.fakes.secure_daemon import (
    Identity,
    SecureDaemon,
    bearer,
    key_and_request,
    secure_daemon,
)

pytestmark = [pytest.mark.xdist_group("audited"), pytest.mark.timeout(240)]

SYSTEM: Final = "@system"
SECONDS: Final = 20.0

STORY: Final = (*FIRST, *GOVERNANCE, *LAST)
ROWS: Final = tuple(one for one in STORY if isinstance(one, Row))

_MODULES: Final = tuple(
    importlib.import_module(f"fleetplane.v1.{module.name}")
    for module in pkgutil.iter_modules(fleetplane.v1.__path__)
    if module.name.endswith("_pb2")
)
DESCRIPTORS: Final = {
    f"{service.name}/{method.name}": method
    for module in _MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
TYPES: Final[dict[str, type[Message]]] = {
    f"{module.DESCRIPTOR.package}.{name}": getattr(module, name)
    for module in _MODULES
    for name in module.DESCRIPTOR.message_types_by_name
}


def test_every_method_that_changes_something_has_a_row() -> None:
    changes = {
        method.name.removeprefix("/fleetplane.v1.")
        for method in METHODS.values()
        if method.is_change
    }
    assert {row.method for row in ROWS} == changes


def test_a_row_that_leaves_another_number_of_entries_says_why() -> None:
    assert [row.method for row in ROWS if row.entries + row.system != 1 and not row.why] == []


class Plane:
    """A daemon, and the callers of the rows."""

    def __init__(self, secure: SecureDaemon, channel: grpc.Channel, key: bytes) -> None:
        self._secure = secure
        self._channel = channel
        self._key = key
        self._admin = bearer(secure.admin_token)
        self._agent: Any = None
        self._open: list[Any] = []
        self.world: World

    def call(self, method: str, request: dict[str, Any], *, who: str = "admin") -> Any:
        """Send a request; return its answer, or the first one of a stream, which stays open."""
        descriptor = DESCRIPTORS[method]
        message: Any = TYPES[descriptor.input_type.full_name]()
        if "namespace" in message.DESCRIPTOR.fields_by_name and "namespace" not in request:
            message.namespace = NAMESPACE
        ParseDict(request, message)
        channel = self._certified() if who == "agent" else self._channel
        options: Any = {"metadata": self._admin if who == "admin" else None}
        path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        answers = TYPES[descriptor.output_type.full_name]
        raw = message.SerializeToString()
        if not descriptor.server_streaming:
            return answers.FromString(channel.unary_unary(path)(raw, timeout=SECONDS, **options))
        if descriptor.client_streaming:
            stream: Any = channel.stream_stream(path)(iter([raw]), **options)
        else:
            stream = channel.unary_stream(path)(raw, **options)
        self._open.append(stream)
        return answers.FromString(next(stream))

    def _certified(self) -> Any:
        if self._agent is None:
            issued = self.world["issued"]
            identity = Identity(
                chain=issued.certificate_chain.encode(),
                key=self._key,
                roots=issued.trust_bundle.encode(),
            )
            self._agent = self._secure.agent_channel(identity)
        return self._agent

    def close(self) -> None:
        for stream in self._open:
            stream.cancel()
        if self._agent is not None:
            self._agent.close()

    def newest(self, namespace: str) -> int:
        status = self.call("AuditService/GetAuditStatus", {"namespace": namespace})
        return int(status.last_sequence)

    def entries(self, namespace: str, after: int) -> list[pb.AuditEvent]:
        """Return the entries after one that a call has left.

        Those of the plane have no address, and refusals are written when nobody waits for them.
        """
        request = {"namespace": namespace, "afterSequence": after, "oldestFirst": True}
        answer = self.call("AuditService/ListEvents", request)
        return [one for one in answer.events if one.address and one.event != "call.refused"]


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    key, request = key_and_request()
    with secure_daemon(grace_seconds=1.0) as secure, secure.channel() as channel:
        secure.make_namespace(NAMESPACE)
        plane = Plane(secure, channel, key)
        plane.world = World(call=plane.call, certificate_request=request)
        with contextlib.closing(plane):
            yield plane


def test_every_call_leaves_one_entry_for_each_object_that_it_changes(plane: Plane) -> None:
    wrong: list[str] = []
    for one in STORY:
        try:
            if isinstance(one, Step):
                one.do(plane.world)
            else:
                wrong += said_wrong(plane, one)
        except (grpc.RpcError, ParseError, LookupError, AssertionError) as error:
            what = one.method if isinstance(one, Row) else "a step"
            wrong.append(f"{what}: {type(error).__name__}: {error}"[:400])
    assert not wrong, "\n".join(wrong)


def said_wrong(plane: Plane, row: Row) -> Iterator[str]:
    """Make the call of a row; yield what is wrong with the entries that it leaves."""
    before = plane.newest(NAMESPACE), plane.newest(SYSTEM)
    answer = plane.call(row.method, row.request(plane.world), who=row.who)
    row.keep(plane.world, answer)
    here, there = plane.entries(NAMESPACE, before[0]), plane.entries(SYSTEM, before[1])
    entries = (*here, *there)
    called = row.says or row.method.partition("/")[2]
    if (len(here), len(there)) != (row.entries, row.system) or {
        entry.method for entry in entries
    } - {called}:
        left = [f"{entry.method} {entry.event} {entry.object}" for entry in entries]
        yield f"{row.method}: {len(here)} and {len(there)} entries: {left}"
    for entry in entries:
        if not entry.address.startswith("ipv4:127.0.0.1:") or not entry.caller_kind:
            yield f"{row.method}: from {entry.address!r}, {entry.caller_kind!r}"
