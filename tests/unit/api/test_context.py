import pytest

from controlplane.api.context import current_caller, current_request_id, log_fields
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import LOCAL_ADMIN, namespace_of
from fleetplane.v1 import registry_service_pb2 as pb
from tests.fakes.echo_service import edge


def test_outside_a_call_there_is_no_caller():
    with pytest.raises(LookupError):
        current_caller()
    assert current_request_id() == ""
    assert log_fields() == {}


async def test_inside_a_call_everything_is_known():
    seen: dict[str, object] = {}

    async def answer(_request, _context):
        seen["caller"] = current_caller()
        seen["fields"] = log_fields()
        return pb.GetAgentResponse()

    async with edge(answer=answer) as it:
        await it.stub.GetAgent(pb.GetAgentRequest(), metadata=(("x-request-id", "r-1"),))
    assert seen["caller"] == LOCAL_ADMIN
    assert seen["fields"] == {
        "request_id": "r-1",
        "method": "/fleetplane.v1.RegistryService/GetAgent",
    }


@pytest.mark.parametrize(
    ("text", "namespace"), [("", "default"), ("a", "a"), ("team-1", "team-1"), ("x" * 63,) * 2]
)
def test_a_namespace_is_taken_as_written(text, namespace):
    assert namespace_of(text) == namespace


@pytest.mark.parametrize("text", ["A", "a_b", "a b", "x" * 64, "ü", "a\n", "a:b"])
def test_a_malformed_namespace_is_refused(text):
    with pytest.raises(InvalidArgument) as caught:
        namespace_of(text)
    assert caught.value.violations[0].field == "namespace"
