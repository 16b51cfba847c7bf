import asyncio
import contextlib
import io
import json
import logging
from typing import Any

import grpc
import pytest
import structlog

from controlplane.api.context import log_fields
from controlplane.domain.access.refusals import CredentialInvalid, Overloaded, RateLimited
from controlplane.telemetry.logging import LogFormat, configure_logging
from controlplane.telemetry.names import LOGGER_ACCESS
from fleetplane.v1 import registry_service_pb2 as pb
from tests.fakes.echo_service import edge


@pytest.fixture
def stream():
    """Where logging goes during the test; afterwards everything is as before."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield io.StringIO()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_entries_are_json_with_their_fields(stream):
    configure_logging(log_format=LogFormat.JSON, stream=stream, call_fields=lambda: {"call": "7"})
    structlog.get_logger("fleetplane.x").info("agent registered", agent_id="a")
    (entry,) = entries(stream)
    assert (
        entry.items()
        >= {
            "event": "agent registered",
            "agent_id": "a",
            "call": "7",
            "level": "info",
            "logger": "fleetplane.x",
        }.items()
    )


def test_the_standard_library_ends_in_the_same_stream(stream):
    configure_logging(log_format=LogFormat.JSON, stream=stream)
    logging.getLogger("grpc").warning("lost %d", 3)
    (entry,) = entries(stream)
    assert (entry["event"], entry["logger"], entry["level"]) == ("lost 3", "grpc", "warning")


def test_a_field_of_the_entry_wins_over_that_of_the_call(stream):
    configure_logging(log_format=LogFormat.JSON, stream=stream, call_fields=lambda: {"a": "call"})
    structlog.get_logger("x").info("said", a="entry")
    assert entries(stream)[0]["a"] == "entry"


@pytest.mark.parametrize("log_format", LogFormat)
def test_tracebacks_show_no_local_variables(stream, log_format):
    configure_logging(log_format=log_format, stream=stream)
    secret = "hunter" + "2"
    try:
        int("x" * len(secret))
    except ValueError:
        structlog.get_logger("x").exception("failed")
    assert "ValueError" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_entries_below_the_level_are_not_written(stream):
    configure_logging(level="warning", stream=stream)
    structlog.get_logger("x").info("quiet")
    logging.getLogger("y").info("quiet")
    assert stream.getvalue() == ""


def test_an_unknown_level_is_refused(stream):
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging(level="loud", stream=stream)


async def answered(
    stream: io.StringIO, level: str, method: str = "GetAgent", **handlers: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    configure_logging(log_format=LogFormat.JSON, level=level, stream=stream, call_fields=log_fields)
    async with edge(**handlers) as it:
        call = it.stub.GetAgent if method == "GetAgent" else it.stub.Discover
        request: Any = pb.GetAgentRequest() if method == "GetAgent" else pb.DiscoverRequest()
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call(request, metadata=(("x-request-id", "r-1"),))
    return [e for e in entries(stream) if e["logger"] == LOGGER_ACCESS], entries(stream)


async def test_a_finished_call_is_one_line(stream):
    ((line,), _) = await answered(stream, "INFO")
    assert (
        line.items()
        >= {
            "event": "call finished",
            "method": "/fleetplane.v1.RegistryService/GetAgent",
            "code": "OK",
            "request_id": "r-1",
            "caller": "local-admin",
            "level": "info",
        }.items()
    )
    assert isinstance(line["duration_ms"], float)


async def test_a_defect_is_logged_with_its_traceback_and_the_id_the_caller_got(stream):
    async def answer(_request, _context):
        raise ValueError("the cause")

    ((line,), everything) = await answered(stream, "INFO", answer=answer)
    assert (line["code"], line["reason"]) == ("INTERNAL", "INTERNAL")
    (defect,) = [e for e in everything if e["level"] == "error"]
    assert (defect["request_id"], defect["error"]) == ("r-1", "ValueError")
    assert "the cause" in json.dumps(defect["exception"])


@pytest.mark.parametrize(("level", "lines"), [("INFO", 0), ("DEBUG", 1)])
async def test_hot_calls_are_logged_at_debug_only(stream, level, lines):
    logged, _ = await answered(stream, level, method="Discover")
    assert len(logged) == lines


@pytest.mark.parametrize(
    "refusal",
    [
        CredentialInvalid("the token", "it is not known here"),
        RateLimited("calls per second", limit=1, per="identity", retry_after_seconds=1.0),
        Overloaded(),
    ],
)
@pytest.mark.parametrize(("level", "lines"), [("INFO", 0), ("DEBUG", 1)])
async def test_refusals_that_come_in_floods_are_logged_at_debug_only(stream, refusal, level, lines):
    async def answer(_request, _context):
        raise refusal

    logged, _ = await answered(stream, level, answer=answer)
    assert [line["reason"] for line in logged] == [refusal.reason] * lines


@pytest.mark.parametrize("by", ["client", "deadline", "server"])
async def test_a_cancelled_call_says_who_ended_it(stream, by):
    configure_logging(log_format=LogFormat.JSON, stream=stream)
    entered = asyncio.Event()

    async def answer(_request, _context):
        entered.set()
        await asyncio.Event().wait()

    async with edge(answer=answer) as it:
        call = it.stub.GetAgent(pb.GetAgentRequest(), timeout=0.1 if by == "deadline" else None)
        await entered.wait()
        if by == "client":
            call.cancel()
        if by == "server":
            await it.drain.run(it.server, it.health, 0.1)
        async with asyncio.timeout(5):
            await it.drain.idle.wait()
    (line,) = [entry for entry in entries(stream) if entry["logger"] == LOGGER_ACCESS]
    assert (line["code"], line["cancelled_by"]) == ("CANCELLED", by)


async def test_a_client_that_leaves_in_the_middle_of_a_write_is_no_defect(stream):
    async def torrent(_request):
        while True:
            yield pb.WatchAgentsResponse(bookmark=pb.WatchAgentsResponse.Bookmark())

    configure_logging(log_format=LogFormat.JSON, stream=stream)
    async with edge(messages=torrent) as it:
        for _ in range(30):
            call = it.stub.WatchAgents(pb.WatchAgentsRequest())
            await call.read()
            call.cancel()
        async with asyncio.timeout(5):
            await it.drain.idle.wait()
    codes = [entry.get("code") for entry in entries(stream)]
    assert codes == ["CANCELLED"] * 30


def test_extra_fields_of_the_standard_library_are_kept(stream):
    configure_logging(log_format=LogFormat.JSON, stream=stream)
    logging.getLogger("fleetplane.test").warning("something", extra={"mode": "poll"})
    (entry,) = entries(stream)
    assert (entry["event"], entry["mode"]) == ("something", "poll")
