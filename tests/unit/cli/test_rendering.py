import io
import sys

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from controlplane.cli.call import Output
from controlplane.cli.moments import ago, span
from controlplane.cli.rendering import (
    Column,
    as_dict,
    cut,
    fields,
    short,
    table,
    width_of,
    write_event,
    write_value,
)
from controlplane.cli.styles import printable
from fleetplane.v1 import agent_pb2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


COLUMNS = (Column("NAME", flexible=True), Column("STATUS"), Column("N", right=True))


def test_columns_are_aligned_and_empty_cells_are_dashes() -> None:
    text = table(COLUMNS, [("writer", "ACTIVE", "7"), ("x", "", "12")])
    assert text.split("\n") == [
        "NAME    STATUS   N",
        "writer  ACTIVE   7",
        "x       -       12",
    ]


def test_a_narrow_terminal_cuts_flexible_columns_only(monkeypatch: pytest.MonkeyPatch) -> None:
    open_narrow_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    text = table(COLUMNS, [("a-very-long-name-of-an-agent", "DECOMMISSIONED", "7")])
    row = text.split("\n")[1]
    assert row == "a-very-lon…  DECOMMISSIONED  7"
    assert len(row) == 30


def test_a_terminal_shows_status_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    open_narrow_terminal(monkeypatch)
    text = table(COLUMNS, [("x", "ACTIVE", "1"), ("y", "DEGRADED", "2")])
    assert "\x1b[32mACTIVE\x1b[0m" in text
    assert "\x1b[33mDEGRADED\x1b[0m" in text


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    open_narrow_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    assert "\x1b" not in table(COLUMNS, [("x", "ACTIVE", "1")])


def test_a_pipe_gets_no_colours_and_whole_cells() -> None:
    text = table(COLUMNS, [("n" * 500, "ACTIVE", "1")])
    assert "n" * 500 in text
    assert "\x1b" not in text


def test_names_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"
    assert "\x1b" not in table(COLUMNS, [("\x1b]0;title\x07", "ACTIVE", "1")])


def test_wide_characters_take_two_cells() -> None:
    assert width_of("日本") == 4
    assert cut("日本語", 5) == "日本…"
    assert width_of("e\u0301") == 1


def test_fields_leave_out_what_is_empty() -> None:
    assert fields({"agent": "a", "why": "", "owner": "bob"}) == "agent  a\nowner  bob"


def test_messages_become_json_with_the_names_of_the_contract() -> None:
    value = as_dict(agent_pb2.Agent(agent_id="a", status=agent_pb2.AGENT_STATUS_ACTIVE, revision=3))
    assert value["agent_id"] == "a"
    assert value["status"] == "AGENT_STATUS_ACTIVE"
    assert value["revision"] == "3"
    assert value["status_reason"] == ""
    assert value["instances"] == []


def test_a_value_is_one_document_and_an_event_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_value(Output.JSON, {"a": [1]})
    write_event(Output.JSON, {"a": ["ü"]})
    write_value(Output.YAML, {"b": 1, "a": "x"})
    out = capsys.readouterr().out
    assert out == '{\n  "a": [\n    1\n  ]\n}\n{"a":["ü"]}\nb: 1\na: x\n'


def test_json_values_are_short_and_strings_bare() -> None:
    assert short("x") == "x"
    assert short(True) == "true"
    assert short(["a", 1]) == '["a", 1]'


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0s"), (4.25, "4.2s"), (60, "1m"), (7200, "2h"), (90_000, "1d")]
)
def test_spans_are_shown_in_their_largest_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_time_that_never_was_is_empty_and_a_future_one_is_now() -> None:
    assert ago(Timestamp()) == ""
    assert ago(Timestamp(seconds=100), now=90) == "0.0s"
    assert ago(Timestamp(seconds=100), now=103.5) == "3.5s"
