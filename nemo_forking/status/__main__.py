"""python -m nemo_forking.status runs/x: what a run is doing, on a terminal or as a page; see docs/run_folder.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from nemo_forking.errors import UserError
from nemo_forking.status.page import write_page
from nemo_forking.status.run import RunStatus, read_run
from nemo_forking.status.terminal import picture


def main(argv: list[str] | None = None) -> int:
    """Show a run until it is over or Ctrl-C; 0, or 2 where there is no run."""
    options = _options(argv)
    try:
        run = _read(options)
        if options.once:
            Console().print(picture(run))
            return 0
        with Live(picture(run), auto_refresh=False) as live:
            while not run.over:
                time.sleep(options.every)
                run = _read(options)
                live.update(picture(run), refresh=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nemo_forking.status", description=__doc__.partition(": ")[2])
    parser.add_argument("folder", type=Path, help="of the run (run.folder)")
    parser.add_argument("--once", action="store_true", help="show it once and end")
    parser.add_argument("--html", action="store_true", help="write status.html into the folder too, at every look")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between looks (5)")
    return parser.parse_args(argv)


def _read(options: argparse.Namespace) -> RunStatus:
    run = read_run(options.folder)
    if options.html:
        write_page(run, options.every)
    return run


if __name__ == "__main__":
    sys.exit(main())
