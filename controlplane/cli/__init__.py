"""The command line `fleetplane`: the daemon, and everything an operator does with one.

Importing this package costs nothing. `main` builds the root command only; a group of commands is
imported when it is used, and what a command needs (the SDK, YAML, rich) when it runs. That keeps
`fleetplane --help` and completion fast; an architecture test holds it.

Exit codes: 0 done; 1 refused or failed; 2 the command line or an input file is wrong; 3 nobody
answered at the address; 130 interrupted.
"""

import gc
from typing import Final

_FEW_COLLECTIONS: Final = 50_000
"""Objects made between collections: importing makes a hundred thousand that all stay, and looking
through them again and again takes a tenth of the time of a command. Below 10 MB of garbage; the
daemon sets its own."""


def main() -> None:
    """Run the command line on the arguments of the process; the entry point `fleetplane`."""
    gc.set_threshold(_FEW_COLLECTIONS)
    from controlplane.cli.entry import run  # noqa: PLC0415  # see above: only what is used

    run()
