"""Exported audits as files: verified without a daemon, and gone on with where they end."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from controlplane.cli.outcomes import WrongInput
from controlplane.domain.audit.chain import Keys, Seal, StoredEntry
from controlplane.domain.audit.keeping import Checkpoint
from controlplane.domain.audit.verification import Problem, ProblemKind, Verification
from controlplane.services.audit.lines import NotALine, read_line

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""Longest line that is read; those of the daemon are far shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What came out of the verification of a file.

    Attributes:
        namespace: Whose audit it is.
        first: Sequence that it begins with.
        verified: Everything through here is proven.
        problem: The first one; None: there is none.
        unsealed: Entries at the end without a seal: the export was broken off.
        keyless_through: Through where seals were made without a key.
    """

    namespace: str
    first: int
    verified: Checkpoint
    problem: Problem | None
    unsealed: int
    keyless_through: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEnd:
    """Where an export can be gone on with: behind its last seal."""

    namespace: str
    sequence: int
    size: int
    """Bytes of the file up to there."""


def verify_file(path: Path, keys: Keys, expected: Checkpoint | None = None) -> FileResult:
    """Verify an exported audit; stops at the first problem.

    Raises:
        WrongInput: the file cannot be read, or is none.
    """
    with _opened(path) as file:
        reading = _Reading(path, keys, expected)
        problem = None
        for number, line in _lines(path, file):
            problem = reading.take(number, line)
            if problem is not None:
                break
        return reading.result(problem)


def end_of_file(path: Path) -> FileEnd | None:
    """Return where an export goes on; None: at the beginning, there is nothing in it.

    Raises:
        WrongInput: the file cannot be read, or is none.
    """
    namespace, end, size = "", None, 0
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            size += len(line)
            if not line.endswith(b"\n"):
                break  # it was broken off in the middle of this line
            said = _read(path, number, line)
            if isinstance(said, tuple):
                namespace = said[0]
            elif isinstance(said, Seal):
                end = FileEnd(namespace=namespace, sequence=said.last, size=size)
    return end


class _Reading:
    """A file on its way through a verification."""

    def __init__(self, path: Path, keys: Keys, expected: Checkpoint | None) -> None:
        self._path = path
        self._keys = keys
        self._expected = expected
        self._namespace = ""
        self._first = 1
        self._check: Verification | None = None
        self._entries: list[StoredEntry] = []

    def take(self, number: int, line: bytes) -> Problem | None:
        said = _read(self._path, number, line)
        if isinstance(said, tuple):
            self._begin(number, *said)
            return None
        check = self._check
        if check is None:
            raise WrongInput(f"{self._path}: the file does not begin with the header of an export")
        match said:
            case StoredEntry():
                self._entries.append(said)
            case Seal():
                entries, self._entries = self._entries, []
                return check.seal(said, entries)
            case Checkpoint() if said != check.checkpoint:
                return Problem(
                    kind=ProblemKind.HEAD_DIFFERS,
                    sequence=said.sequence,
                    detail=f"line {number} says another checkpoint than what comes before it",
                )
        return None

    def _begin(self, number: int, namespace: str, base: Checkpoint | None) -> None:
        if self._check is None:
            self._namespace, self._first = namespace, 1 if base is None else base.sequence + 1
            self._check = Verification(namespace, self._keys, base=base, expected=self._expected)
        elif namespace != self._namespace or base != self._check.checkpoint:
            raise WrongInput(f"{self._path}: line {number} begins another export")

    def result(self, problem: Problem | None) -> FileResult:
        check = self._check
        if check is None:
            raise WrongInput(f"{self._path} is empty")
        # Who trimmed it, the daemon's own audit says; a file may have been written before.
        check.trim_proven = True
        return FileResult(
            namespace=self._namespace,
            first=self._first,
            verified=check.checkpoint,
            problem=problem or check.end(),
            unsealed=len(self._entries),
            keyless_through=check.keyless_through,
        )


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if not line.endswith(b"\n"):
            raise WrongInput(
                f"{path}: line {number} is not complete",
                hint="`fleetplane audit export FILE --resume` goes on with an export",
            )
        yield number, line


def _read(path: Path, number: int, line: bytes) -> object:
    try:
        return read_line(line.removesuffix(b"\n"))
    except NotALine as error:
        raise WrongInput(f"{path}: line {number} {error}") from None


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise WrongInput(f"cannot read {path}: {error.strerror}") from None
