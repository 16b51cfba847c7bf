import io
import sys
from typing import Any

import pytest

from controlplane.cli.demo_board import Happening
from controlplane.cli.demo_rollout_view import RolloutStage
from controlplane.cli.demo_traffic import Traffic
from fleetplane.v1 import rollout_service_pb2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_frame_cuts_happenings_and_shows_the_sum_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    for name, value in {"COLUMNS": "60", "LINES": "40", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    rollout = rollout_service_pb2.Rollout(agent_name="writer", to_version="2.0.0")
    with RolloutStage() as stage:
        stage.happened(Happening(event="changed", text="x" * 80 + " never seen"))
        stage.happened(Happening(event="summary", text="y" * 80 + " seen"))
        traffic = Traffic(Any, "researcher", "run")  # type: ignore[arg-type]  # never called
        stage.redraw(traffic, rollout, None)
    shown = terminal.getvalue()
    assert "tasks submitted 0" in shown
    assert "2.0.0 (new)" in shown
    assert "never seen" not in shown
    assert " seen" in shown
