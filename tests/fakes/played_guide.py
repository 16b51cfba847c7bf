"""A guide that is played: the commands of a page are typed into a shell, its programs are started.

What a page has to look like:

    ```console                            commands of one shell, which lives as long as the page;
    $ fleetplane agents list              lines without `$ ` are what has to be seen of the answer
    ```
    ```console title="terminal: daemon"   a terminal in which the last command goes on; what ran
    $ fleetplane serve                    there before is ended with Ctrl-C
    ```
    ```python title="agent.py"            a file in the directory of the reader
    ```

`…` in a line of an answer stands for anything; how many spaces there are does not
matter. `$NAME` is whatever stands there, and the same from then on, in commands as well.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

COMMAND_SECONDS: Final = 60.0
"""How long a command may take on a machine that runs other suites."""

SEEN_SECONDS: Final = 30.0
"""How long until a reader who looks again sees what the page shows: a start, 5 s for a revocation,
a certificate that is renewed."""

ENDED_SECONDS: Final = 30.0
"""How long a program may take to end after Ctrl-C: the grace and the delay of a drain."""

_TERMINAL: Final = "terminal: "
_BLOCK: Final = re.compile(
    r"^```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]*)\")?\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_NAMED: Final = re.compile(r"\$([A-Z][A-Z_]*)")
_NAMED_ESCAPED: Final = re.compile(r"\\\$([A-Z][A-Z_]*)")
_REFUSALS: Final = ("Error:", "no:")
"""How answers begin that come with an exit code other than 0."""

_LOOKS: Final = re.compile(r" (list|get|show|usage|whoami|can-i|status|bans)\b|^(grpcurl|grep|ls) ")
"""Commands that change nothing: a reader repeats them until they show what is to be seen."""

_POLL_SECONDS: Final = 0.02

_WITH_CTRL_C: Final = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    " os.execvp('bash', ['bash', '--noprofile', '--norc', '-c', sys.argv[1]])"
)
"""Starts a terminal's commands; what runs in the background of a shell would ignore Ctrl-C."""

_DONE: Final = "--done--"


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and what is shown of its answer."""

    command: str
    shown: tuple[str, ...]

    @property
    def is_refused(self) -> bool:
        return any(line.startswith(_REFUSALS) for line in self.shown)

    @property
    def looks(self) -> bool:
        """Whether it may be repeated."""
        return _LOOKS.search(self.command) is not None


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    kind: str
    title: str
    body: str

    @property
    def terminal(self) -> str:
        """Name of the terminal that it belongs to; empty: the shell, or a file."""
        return self.title.removeprefix(_TERMINAL) if self.title.startswith(_TERMINAL) else ""

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(_steps(self.body))


def blocks(page: str) -> tuple[Block, ...]:
    """Return the fenced blocks of a page, in order."""
    found = _BLOCK.finditer(page)
    return tuple(Block(one["kind"], one["title"] or "", one["body"]) for one in found)


def _steps(body: str) -> Iterator[Step]:
    command: list[str] = []
    shown: list[str] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            if command:
                yield Step("\n".join(command), tuple(shown))
            command, shown = [line[2:]], []
        elif command and command[-1].endswith("\\"):
            command.append(line)
        elif line.strip() not in {"", "…"}:
            shown.append(line)
    if command:
        yield Step("\n".join(command), tuple(shown))


def missing_line(
    shown: tuple[str, ...], said: str, known: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Return the first line that is shown and not said in that order, empty if there is none.

    Also returns what was said in the place of names.
    """
    lines = iter([_plain(line) for line in said.splitlines()])
    named: dict[str, str] = {}
    for wanted in shown:
        pattern = _pattern(wanted, {**known, **named})
        match = next((match for line in lines if (match := pattern.fullmatch(line))), None)
        if match is None:
            return wanted, named
        named |= match.groupdict()
    return "", named


def _pattern(wanted: str, known: Mapping[str, str]) -> re.Pattern[str]:
    escaped = re.escape(_plain(wanted)).replace("…", ".*")
    seen: set[str] = set()

    def named(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in known:
            return re.escape(known[name])
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return rf"(?P<{name}>\S+?)"

    return re.compile(_NAMED_ESCAPED.sub(named, escaped))


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()


@dataclass
class Terminal:
    """A program that goes on, and all that it has said."""

    process: asyncio.subprocess.Process
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    async def end(self) -> int:
        """Press Ctrl-C and wait; return the exit code, 0 if the page itself has killed it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(ENDED_SECONDS):
            code = await self.process.wait()
        return 0 if code == -signal.SIGKILL else code


@dataclass
class Reader:
    """Somebody who does what a page says, in a directory.

    Attributes:
        directory: where he is.
        environment: of everything he starts.
        instead: what he writes in the place of what is printed, such as addresses.
        terminals: the programs that run, by the name of their terminal.
        known: what was said in the place of names.
    """

    directory: Path
    environment: Mapping[str, str]
    instead: Mapping[str, str]
    shell: asyncio.subprocess.Process
    terminals: dict[str, Terminal] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)

    def typed(self, text: str) -> str:
        """Return a printed text as he types it."""
        for printed, written in self.instead.items():
            text = text.replace(printed, written)
        return _NAMED.sub(lambda m: self.known.get(m.group(1), m.group(0)), text)

    def printed(self, text: str) -> str:
        """Return what was said as the page would print it."""
        for printed, written in self.instead.items():
            text = text.replace(written, printed)
        return text

    async def follow(self, block: Block) -> None:
        """Do what a block says, and compare what there is to be seen."""
        if block.terminal:
            await self.start(block.terminal, block.steps)
        elif block.kind == "console":
            for step in block.steps:
                await self.do(step)
        elif block.title:
            (self.directory / block.title).write_text(self.typed(block.body), encoding="utf-8")

    async def do(self, step: Step) -> None:
        """Type a command; look again while it only looks and what is shown is not there yet."""
        deadline = time.monotonic() + SEEN_SECONDS
        while True:
            code, said = await self.type(step.command)
            missing, named = missing_line(step.shown, said, self.known)
            is_right = not missing and (code == 0) is not step.is_refused
            if is_right or not step.looks or time.monotonic() > deadline:
                break
        assert not missing, (
            f"$ {step.command}\n{missing!r} is not, or not in that place, in\n{said}"
        )
        assert is_right, f"$ {step.command}\nexit code {code}\n{said}"
        self.known |= named

    async def type(self, command: str) -> tuple[int, str]:
        """Run a command in the shell; return its exit code and all that it said."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        line = f"{{ {self.typed(command)}\n}} </dev/null 2>&1\necho {_DONE}$?\n"
        self.shell.stdin.write(line.encode())
        async with asyncio.timeout(COMMAND_SECONDS):
            await self.shell.stdin.drain()
            said = (await self.shell.stdout.readuntil(_DONE.encode())).decode()
            code = int(await self.shell.stdout.readline())
        return code, self.printed(said.removesuffix(_DONE))

    async def start(self, name: str, steps: tuple[Step, ...]) -> None:
        """Start the program of a terminal, and wait until it has said what is shown."""
        if name in self.terminals:
            code = await self.terminals[name].end()
            assert code == 0, f"{name} ended with {code}\n{self.terminals[name].said}"
        *before, last = [self.typed(step.command) for step in steps]
        output = self.directory / f"{name.replace(' ', '-')}.said"
        with output.open("ab") as file:
            begins = file.tell()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _WITH_CTRL_C, "\n".join([*before, f"exec {last}"])),
                cwd=self.directory,
                env=dict(self.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        terminal = self.terminals[name] = Terminal(process, output)
        deadline = time.monotonic() + SEEN_SECONDS
        shown = steps[-1].shown
        while True:
            missing, named = missing_line(shown, self.printed(terminal.said[begins:]), self.known)
            if not missing:
                break
            ended = process.returncode is not None or time.monotonic() > deadline
            assert not ended, f"{name}: {missing!r} is not in\n{terminal.said}"
            await asyncio.sleep(_POLL_SECONDS)
        self.known |= named


@contextlib.asynccontextmanager
async def reader(
    directory: Path, environment: Mapping[str, str], instead: Mapping[str, str]
) -> AsyncIterator[Reader]:
    """Sit somebody down in a directory, with this installation on his path; end all he starts."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FLEETPLANE_", "XDG_"))}
    own_programs = (str(directory / "bin"), str(Path(sys.executable).parent))
    path = os.pathsep.join([*own_programs, os.environ["PATH"]])
    own = {"HOME": str(directory / "home"), "COLUMNS": "200", "PATH": path}
    chosen = inherited | own | dict(environment)
    shell = await asyncio.create_subprocess_exec(
        *("bash", "--noprofile", "--norc"),
        cwd=directory,
        env=chosen,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    somebody = Reader(directory, chosen, instead, shell)
    try:
        yield somebody
    finally:
        processes = [shell, *(one.process for one in somebody.terminals.values())]
        for process in processes:
            if process.returncode is None:
                process.kill()
        for process in processes:
            await process.wait()
