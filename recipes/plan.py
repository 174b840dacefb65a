"""What a run will need before a GPU hour is spent: memory of every pipeline stage, FLOPs, hours, disk (docs/plan.md).

    python recipes/plan.py experiment=ssft_math_32b layout=8xh200
    python recipes/plan.py experiment=gfpo_math_32b layout=16xh100 policy.scope=all

Takes the overrides of the recipe that is planned, and needs neither GPU nor NeMo. A layout that cannot fit is refused
with the nearest that does.
"""

from rich.console import Console

from nemo_forking.cli import main
from nemo_forking.plan.plan import make_plan, refuse_what_cannot_fit
from nemo_forking.plan.show import heading, show

WIDE = 120  # columns


@main
def run(config) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)  # a file has room for the tables
    console.print(heading(config), style="bold", highlight=False)
    plan = make_plan(config)
    show(config, plan, console)
    refuse_what_cannot_fit(config, plan)


if __name__ == "__main__":
    run()
