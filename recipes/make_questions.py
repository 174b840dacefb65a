"""Write the laptop task of a study: source/*.jsonl, questions with their teachers' traces, and tokenizer/.

python recipes/make_questions.py experiment=tiny run.folder=runs/mine
"""

from rich.console import Console

from nemo_forking.cli import recipe


@recipe(experiment="tiny")
def main(config) -> None:
    """Generates the questions of study.questions in run.folder, as recipes/reproduce.py does; docs/many_ways.md."""
    from nemo_forking.cluster.questions import make_questions  # here, so that --help answers at once

    make_questions(config)
    Console().print(f"The questions are in {config.run.folder}/source", style="bold", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
