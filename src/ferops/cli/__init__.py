"""The command line: one verb per pipeline stage, and the things a person asks for.

Only `typer` is imported here; each command imports its room when it runs, so that help is instant.
"""

import os
import sys

from ferops.cli.app import app

# Help shows the commands in this order.
# isort: off
from ferops.cli import data  # noqa: F401
from ferops.cli import training  # noqa: F401
from ferops.cli import promotion  # noqa: F401
from ferops.cli import production  # noqa: F401
# isort: on

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: an expected error is one sentence on stderr; FEROPS_DEBUG=1 shows its traceback."""
    from ferops.tracking import sigterm_interrupts

    try:
        with sigterm_interrupts():
            app()
    except BaseException as error:  # SIGTERM is no Exception
        ours = type(error).__module__.startswith("ferops") or isinstance(error, FileNotFoundError)
        if not ours or os.environ.get("FEROPS_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
