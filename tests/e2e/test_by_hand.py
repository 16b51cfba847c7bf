"""docs/grpcurl.md is a session: its commands are run in order, and its answers are compared.

`buf curl` always runs it (it comes with the development environment), grpcurl where it is
installed. Both know nothing but the address: the schema comes from the daemon's reflection.

`$NAME` in an answer is whatever stands there, and the same thing from then on.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleetplane.v1 import (
    access_service_pb2,
    approval_service_pb2,
    audit_service_pb2,
    config_service_pb2,
    decision_service_pb2,
    experiment_service_pb2,
    identity_service_pb2,
    lifecycle_service_pb2,
    namespace_service_pb2,
    policy_service_pb2,
    prompt_service_pb2,
    registry_service_pb2,
    rollout_service_pb2,
    routing_service_pb2,
    task_service_pb2,
)
from tests.fakes.daemon import running_daemon

pytestmark = [pytest.mark.xdist_group("by hand"), pytest.mark.timeout(180)]

DOCUMENT = Path(__file__).parents[2] / "docs" / "grpcurl.md"
WRITTEN_FOR = "localhost:50051"

_BLOCK = re.compile(r"^```console\n\$ (grpcurl .*?[^\\])\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SNAKE_KEY = re.compile(r'"([a-z0-9]+(?:_[a-z0-9]+)+)":')
_MASK_OBJECT = re.compile(r'\{"paths": \["([a-z_,]+)"\]\}')

_NAMED = re.compile(r"\$([A-Z]+)")
_NAMED_ESCAPED = re.compile(r"\\\$([A-Z]+)")
_SHOWN_CODE = re.compile(r"Code: (\w+)")

CALL_SECONDS = 20.0
SECONDS_LONGER = 1.0
"""How much longer than its `-max-time` a watch is looked at: `buf curl` has no such thing."""

_MODULES = (
    registry_service_pb2,
    config_service_pb2,
    policy_service_pb2,
    decision_service_pb2,
    lifecycle_service_pb2,
    task_service_pb2,
    routing_service_pb2,
    rollout_service_pb2,
    identity_service_pb2,
    access_service_pb2,
    namespace_service_pb2,
    approval_service_pb2,
    audit_service_pb2,
    experiment_service_pb2,
    prompt_service_pb2,
)


@dataclass(frozen=True)
class Step:
    """One command of the document, and what it shows of the answer."""

    command: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def method(self) -> str:
        """`service/method`, or the verb of reflection."""
        return self.command[-1] if "describe" not in self.command else "describe"

    @property
    def data(self) -> str:
        return self.command[self.command.index("-d") + 1] if "-d" in self.command else ""

    @property
    def watches(self) -> bool:
        """Whether it goes on until its deadline."""
        return self.method.rpartition("/")[2].startswith("Watch")

    @property
    def seconds(self) -> float:
        """How long it may take."""
        if "-max-time" not in self.command:
            return CALL_SECONDS
        return float(self.command[self.command.index("-max-time") + 1]) + SECONDS_LONGER

    @property
    def refused(self) -> bool:
        return self.shown[0] == "ERROR:"

    @property
    def code(self) -> str:
        """The code of a refusal, as Connect spells it."""
        shown = _SHOWN_CODE.search(self.shown[1])
        assert shown is not None
        return re.sub(r"(?<!^)(?=[A-Z])", "_", shown.group(1)).lower()

    def knowing(self, known: dict[str, str]) -> "Step":
        """Return the step with what earlier answers said in the place of its names."""

        def filled(text: str) -> str:
            return _NAMED.sub(lambda m: known.get(m.group(1), m.group(0)), text)

        return Step(tuple(map(filled, self.command)), tuple(map(filled, self.shown)))


def steps() -> Iterator[Step]:
    for command, answer in _BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")):
        lines = tuple(line for line in answer.splitlines() if line.strip() != "…")
        yield Step(tuple(shlex.split(command.replace("\\\n", ""))), lines)


def plain(line: str) -> str:
    """Return a line of JSON without what the two tools write differently.

    Keys are spelled as in the proto or in camel case, and spaces after the colon come and go.
    """
    camel = _SNAKE_KEY.sub(lambda m: f'"{_camel(m.group(1))}":', line.strip().rstrip(","))
    return re.sub(r"\s+", " ", camel)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(map(str.capitalize, rest))


def run(command: list[str], *, seconds: float) -> tuple[int | None, str]:
    """Run a command; return its exit code, None if it was ended, and all it said."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        output.seek(0)
        return code, output.read().decode()


def assert_shows(step: Step, said: str) -> dict[str, str]:
    """Check that the answer has every line that the document shows, in that order.

    Return what it says in the place of names.
    """
    lines = iter([plain(line) for line in said.splitlines()])
    named: dict[str, str] = {}
    for wanted in map(plain, step.shown):
        pattern = re.compile(_NAMED_ESCAPED.sub(r'(?P<\1>[^"]+)', re.escape(wanted)))
        found = next((match for line in lines if (match := pattern.fullmatch(line))), None)
        assert found is not None, (
            f"{step.method}: {wanted!r} is not, or not in that place, in\n{said}"
        )
        named |= found.groupdict()
    return named


def test_the_document_drives_every_method_of_every_service() -> None:
    driven = {step.method for step in steps()}
    contract = {
        f"{service.full_name}/{method.name}"
        for module in _MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert contract <= driven, contract - driven


def test_the_session_runs_with_grpcurl() -> None:
    grpcurl = shutil.which("grpcurl")
    if grpcurl is None:
        pytest.skip("grpcurl is not installed; buf curl runs the same session")
    # Nobody beats for long here, and nobody shall be given up meanwhile.
    with running_daemon(degraded_after_seconds=3600.0, lost_after_seconds=36_000.0) as daemon:
        known: dict[str, str] = {}
        for written in steps():
            step = written.knowing(known)
            command = [daemon.address if p == WRITTEN_FOR else p for p in step.command[1:]]
            code, said = run([grpcurl, *command], seconds=CALL_SECONDS)
            if not step.watches:
                assert (code == 0) is not step.refused, f"{step.command}: {said}"
            known |= assert_shows(step, said)


def test_the_session_runs_with_buf_curl() -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert buf is not None, "the development environment brings buf"
    with running_daemon(degraded_after_seconds=3600.0, lost_after_seconds=36_000.0) as daemon:
        base = [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
        known: dict[str, str] = {}
        for written in steps():
            step = written.knowing(known)
            if step.method == "describe":
                continue  # the one thing that `buf curl` cannot show
            if step.method == "list":
                code, said = run(
                    [*base, "--list-services", f"http://{daemon.address}"], seconds=CALL_SECONDS
                )
                assert code == 0, said
                assert set(step.shown) <= set(said.split())
                continue
            # A mask is a string in protobuf's JSON; grpcurl wants the object.
            data = _MASK_OBJECT.sub(r'"\1"', step.data)
            command = [*base, "-d", data]
            code, said = run(
                [*command, f"http://{daemon.address}/{step.method}"], seconds=step.seconds
            )
            if step.refused:
                assert code
                assert json.loads(said)["code"] == step.code
                continue
            # A watch goes on until it is ended, unless what it watches has come to its end.
            assert code == 0 or (step.watches and code is None), f"{step.command}: {said}"
            known |= assert_shows(step, said)
