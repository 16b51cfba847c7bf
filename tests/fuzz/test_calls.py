"""Every unary call of a whole daemon with messages of any content: an answer, or a refusal."""

from collections.abc import Iterator
from typing import Any, Final

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

import fleetplane.v1 as wire
from controlplane.api.methods import METHODS, RateClass
from tests.fakes.daemon import running_daemon
from tests.fakes.fuzzing import fuzz_settings, messages

_CALL_SECONDS: Final = 20.0

_DEFECTS: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
"""What the daemon answers when it does not know what happened."""

_WAITS: Final = frozenset({"min_revision", "wait"})
"""Fields by which a caller wants to wait, by contract for seconds."""

assert wire  # registers the descriptors


def unary_methods() -> list[MethodDescriptor]:
    """Methods that answer at once."""
    found = []
    for name, row in METHODS.items():
        service, _, method = name[1:].partition("/")
        if row.is_infrastructure or row.rate_class is RateClass.STREAM:
            continue
        described = Default().FindServiceByName(service).methods_by_name[method]
        if not described.client_streaming and not described.server_streaming:
            found.append(described)
    return found


_METHODS: Final = unary_methods()


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    """A channel to a daemon of its own, which is used up by what it is asked."""
    with (
        running_daemon(grace_seconds=1.0) as daemon,
        grpc.insecure_channel(daemon.address) as channel,
    ):
        yield channel


@fuzz_settings(share=6.0)
@given(data=st.data())
def test_whatever_is_asked_the_daemon_knows_what_to_say(
    channel: grpc.Channel, data: st.DataObject
) -> None:
    method = data.draw(st.sampled_from(_METHODS))
    request = data.draw(messages(method.input_type))
    for name in _WAITS.intersection(method.input_type.fields_by_name):
        request.ClearField(name)
    call: Any = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    try:
        call(request, timeout=_CALL_SECONDS)
    except grpc.RpcError as error:
        status: Any = error
        assert status.code() not in _DEFECTS, f"{method.full_name}: {status.details()}"
        assert status.code() is not grpc.StatusCode.DEADLINE_EXCEEDED, method.full_name
