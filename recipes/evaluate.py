"""From trained models to the paper's tables: sample every tag, grade, and set measured beside published.

    python recipes/evaluate.py experiment=tiny                                 # the demo's models on its own questions
    python recipes/evaluate.py experiment=ssft_math_32b engine=server 'engine.server.urls=[http://node1:8000]'
    python recipes/evaluate.py 'benchmarks=[aime24]' benchmarks.aime24.source=aime24.jsonl \
        'evaluation.systems=[{model: folder}]' engine=transformers

Run again, it continues: samples and verdicts that are there are kept. Everything lies in evaluation.folder: a folder of
completions and verdicts for every measurement, results.json, report.html and report.md.
"""

from rich.console import Console

from nemo_forking.cli import recipe
from nemo_forking.config import Config, save_resolved

console = Console(stderr=True)


@recipe(experiment="tiny")
def run(config: Config) -> None:
    """Evaluates every system of evaluation.systems on every benchmark chosen; see the top of this file."""
    from nemo_forking.evaluation.report import print_table, write_report  # here, so that --help answers at once
    from nemo_forking.evaluation.run import evaluate

    for folder in evaluate(config):  # a report after every system
        save_resolved(config, folder)
        html, _ = write_report(folder)
    print_table(folder)
    console.print(f"The report is {html}", style="bold", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run()
