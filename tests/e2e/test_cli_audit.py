"""The audit on the command line: read, followed, verified, exported, trimmed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.e2e.audited_rows import until
from tests.e2e.command_line import answer, lines, started
from tests.fakes.daemon import Daemon

pytestmark = [pytest.mark.xdist_group("command line"), pytest.mark.timeout(120)]

Run = Callable[..., Result]


@pytest.fixture
def changed(run: Run) -> Callable[[float], None]:
    """Change the configuration: one entry."""

    def change(value: float) -> None:
        run("config", "set", f"temperature={value}")

    return change


def sealed(run: Run, through: int) -> str:
    """Wait until everything through an entry is sealed; return the checkpoint."""

    def is_sealed() -> bool:
        status = answer(run("audit", "status", "-o", "json"))
        return int(status.get("sealed", {}).get("sequence", 0)) >= through

    until(is_sealed)
    checkpoint = answer(run("audit", "status", "-o", "json"))["sealed"]
    return f"{checkpoint['sequence']}:{checkpoint['head']}"


def test_the_newest_entries_come_last_and_filters_hold(run: Run, changed, namespace: str) -> None:
    for value in (0.1, 0.2, 0.3):
        changed(value)
    shown = run("audit", "tail").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["1", "2", "3"]
    assert "local-admin  config.updated  config/namespace" in shown[0]
    assert len(run("audit", "tail", "--lines", "2").stdout.splitlines()) == 2
    assert run("audit", "tail", "--actor", "user:*").stdout == ""
    assert len(run("audit", "tail", "--since", "1h", "--method", "Update*").stdout.split("\n")) == 4
    events = [json.loads(line) for line in run("audit", "tail", "-o", "json").stdout.splitlines()]
    assert [event["sequence"] for event in events] == ["1", "2", "3"]
    assert events[0]["address"].startswith("ipv4:127.0.0.1:")
    assert namespace not in run("audit", "tail", "--system").stdout


def test_what_happens_is_followed(changed, daemon: Daemon, namespace: str) -> None:
    changed(0.1)
    command = ("-a", daemon.address, "-n", namespace, "audit", "tail", "--follow", "-o", "json")
    with started(*command) as process:
        following = lines(process)
        assert next(following)["sequence"] == "1"
        for value in (0.2, 0.3):
            changed(value)
        assert [next(following)["sequence"] for _ in range(2)] == ["2", "3"]


def test_a_whole_audit_is_valid_and_another_head_is_not(run: Run, changed) -> None:
    changed(0.1)
    changed(0.2)
    checkpoint = sealed(run, 2)
    said = run("audit", "verify").stdout
    assert "VALID: entries 1 - 2 are as they were" in said
    assert checkpoint in said
    run("audit", "verify", "--expect-head", checkpoint)
    run("audit", "verify", "--expect-head", checkpoint.partition(":")[2])
    wrong = run("audit", "verify", "--expect-head", f"2:{'0' * 64}", code=1)
    assert "not as it was from entry 2 on: head differs" in wrong.stderr
    assert answer(run("audit", "verify", "-o", "json"))["verified"]["sequence"] == "2"
    assert "without a key" in run("audit", "verify", "--require-key", code=1).stderr
    run("audit", "verify", "--expect-head", "nonsense", code=2)


def test_an_export_is_proven_gone_on_with_and_trimmed(
    run: Run, changed, namespace: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "audit.jsonl")
    changed(0.1)
    sealed(run, 1)
    assert "exported through 1:" in run("audit", "export", file).stdout
    assert "is there already" in run("audit", "export", file, code=2).stderr
    changed(0.2)
    changed(0.3)
    checkpoint = sealed(run, 3)
    with Path(file).open("ab") as broken:
        broken.write(b'{"sequence":2,"at_ms":17')
    assert checkpoint in run("audit", "export", file, "--resume", "--confirm").stdout
    assert "VALID: entries 1 - 3" in run("audit", "verify", "--file", file).stdout
    assert Path(file).read_bytes().count(b'"entry":') == 3
    run("audit", "export", file, "--resume", "--system", code=2)
    altered = tmp_path / "altered.jsonl"
    altered.write_bytes(Path(file).read_bytes().replace(b"local-admin", b"local-Admin", 1))
    wrong = run("audit", "verify", "--file", str(altered), code=1)
    assert "from entry 1 on: entry altered" in wrong.stderr
    assert "entry 1" in run("audit", "trim", "--file", str(altered), code=1).stderr
    run("audit", "trim", code=2)
    trimmed = run("audit", "trim", "--file", file, "--reason", "in the vault").stdout
    assert trimmed == "3 entries are gone; it begins with entry 4\n"
    sealed(run, 5)
    assert "VALID: entries 4 - 5" in run("audit", "verify").stdout
    last = json.loads(run("audit", "tail", "--lines", "1", "-o", "json").stdout)
    assert (last["event"], last["reason"]) == ("audit.trimmed", "in the vault")
    assert (
        "begins with entry 4"
        in run("audit", "verify", "--expect-head", f"1:{'0' * 64}", code=1).stderr
    )
    status = run("audit", "status").stdout
    assert "through 3" in status
    assert namespace not in run("audit", "status", "--system").stdout
