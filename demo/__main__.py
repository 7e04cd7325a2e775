"""The command behind ``make demo``."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Before the other imports, which take a second: Ctrl-C must not print a traceback while they run.
    from stack.interrupts import exit_at_once, handle_interrupts, ignore_interrupts

    handle_interrupts(exit_at_once)
    from demo.cli import main

    code = main()
    ignore_interrupts()
    sys.exit(code)
