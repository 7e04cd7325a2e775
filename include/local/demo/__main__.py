"""``python -m include.local.demo``: see ``include/local/demo/cli.py``."""

from __future__ import annotations

import sys

from include.local.demo.cli import main

if __name__ == "__main__":
    sys.exit(main())
