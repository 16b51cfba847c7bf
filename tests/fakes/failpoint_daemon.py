"""`fleetplane` that kills itself (SIGKILL) at one named point of a rollout, for tests of crashes.

`FAILPOINT=before:ENTER_STEP python -m tests.fakes.failpoint_daemon serve ...`
"""

import functools
import os
import signal

from controlplane import app
from controlplane.cli import entry

POINT = os.environ["FAILPOINT"]


def die_at_the_point(_rollout_id: str, point: str) -> None:
    """Die, if this is the point."""
    if point == POINT:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    app.App = functools.partial(app.App, on_transition=die_at_the_point)  # type: ignore[assignment,misc]  # what `serve` makes
    entry.run()
