"""`fleetplane` that kills itself (SIGKILL) at one named point, for tests of crashes.

`FAILPOINT=before:ENTER_STEP python -m tests.fakes.failpoint_daemon serve ...`: at a transition of a
rollout. `FAILPOINT=committed:ConsumeApproval`: between the store's answer to a commit of that
method and the answer to its caller.
"""

import functools
import os
import signal

from controlplane import app
from controlplane.cli import entry
from controlplane.services.ports import Committed, Transaction
from controlplane.storage.redis.ledger import RedisLedger

POINT = os.environ["FAILPOINT"]


def die_at_the_point(_rollout_id: str, point: str) -> None:
    """Die, if this is the point."""
    if point == POINT:
        os.kill(os.getpid(), signal.SIGKILL)


def dying_after_commits() -> None:
    """Have commits of the method that the point names be the last thing that is done."""
    commit = RedisLedger.commit

    async def last(self: RedisLedger, transaction: Transaction) -> Committed:
        committed = await commit(self, transaction)
        die_at_the_point("", f"committed:{transaction.audit.method}")
        return committed

    RedisLedger.commit = last  # type: ignore[method-assign]  # a point to die at


if __name__ == "__main__":
    dying_after_commits()
    app.App = functools.partial(app.App, on_transition=die_at_the_point)  # type: ignore[assignment,misc]  # what `serve` makes
    entry.run()
