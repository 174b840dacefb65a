"""Faults against training, and what becomes of it: kills, damaged files, full disks.

    python -m tests.campaign kills --kills 100       processes killed at random moments
    python -m tests.campaign corruption              every file truncated, flipped, removed
    python -m tests.campaign disk                    full and read-only folders (needs root, to mount)

Exits with 1 where a run came to other numbers than the undisturbed one, or ended without a clear message.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import tests.conftest  # noqa: F401 - the environment, before torch is imported


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    kills = commands.add_parser("kills", help="SIGKILL, SIGTERM, SIGUSR1 to random processes at random moments")
    kills.add_argument("--kills", type=int, default=100, help="faults to inject (default 100)")
    kills.add_argument("--seed", type=int, default=1, help="of victims, signals and moments (default 1)")
    kills.add_argument("--layouts", nargs="*", help="layouts to take (default: all), e.g. 'one process' 'tensor 2'")
    kills.add_argument(
        "--mixed",
        action="store_true",
        help="every life has another layout; compared to float32's accuracy",
    )
    corruption = commands.add_parser("corruption", help="every file truncated, flipped, emptied, removed in turn")
    corruption.add_argument("--every", type=int, default=1, help="take every nth case only (default 1: all)")
    corruption.add_argument("--only", default="", help="cases whose name contains this")
    disk = commands.add_parser("disk", help="a full disk and a read-only folder at every kind of write")
    for command in (kills, corruption, disk):
        command.add_argument("--recipe", choices=("ssft", "gfpo", "both"), default="both")
        command.add_argument("--folder", type=Path, help="an empty one to work in; kept (default: a temporary one)")
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        if any(args.folder.iterdir()):
            parser.error(f"--folder {args.folder} is not empty")
        return run(args, args.folder.resolve())
    folder = Path(tempfile.mkdtemp(prefix="campaign"))
    status = run(args, folder)
    if status == 0:
        shutil.rmtree(folder)
    return status


def run(args: argparse.Namespace, folder: Path) -> int:
    """Run one campaign in a folder; the exit status."""
    from rich.console import Console

    from tests.campaign import corruption, disk, kills
    from tests.campaign.ground import LAYOUTS, RECIPES

    recipes, console = RECIPES if args.recipe == "both" else (args.recipe,), Console()
    if args.command == "kills":
        layouts = tuple(args.layouts or LAYOUTS)
        report = kills.campaign(folder, args.kills, args.seed, recipes, layouts=layouts, mixed=args.mixed)
        kills.show(report, console)
    elif args.command == "corruption":
        report = corruption.campaign(folder, recipes, every=args.every, only=args.only)
        corruption.show(report, console)
    else:
        report = disk.campaign(folder, recipes)
        disk.show(report, console)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
