"""Gather the evaluations of a study into one results.json, report.html and report.md in its folder.

python recipes/table.py experiment=math_32b
"""

from rich.console import Console

from nemo_forking.cli import recipe


@recipe(experiment="tiny")
def main(config) -> None:
    """The last stage of recipes/reproduce.py: takes its command line, and needs all of the evaluations."""
    from nemo_forking.cluster.table import make_table  # here, so that --help answers at once

    Console().print(f"The report is {make_table(config)}", style="bold", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
