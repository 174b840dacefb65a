"""Set supervised fine-tuning (SSFT), or a baseline by another matching.rule, on prepared traces.

    python recipes/ssft.py experiment=real_traces_trial data.folder=prepared model.base=qwen
    torchrun --nproc-per-node 8 recipes/ssft.py experiment=ssft_math_32b layout=8xb200 matching.tokens=500

Every optimizer step (nemo_forking/training/step.py):
    1. without gradient, the mean NLL of each trace's first matching.tokens tokens after each tag: an N x M cost matrix
       per question; a minimum-cost matching assigns traces to tags;
    2. next-token loss of each full trace after its tag, one update.

The run folder gets config.yaml, metrics.jsonl, tensorboard/, checkpoints/ and, at the end, model/ in Hugging Face
format. The same command continues a run that was ended.
"""

from rich.console import Console

from nemo_forking.cli import main


@main
def run(config) -> None:
    from nemo_forking.training.launch import start_training  # here, so that --help answers at once

    start_training(config)
    Console().print(f"The model is in {config.run.folder}/model", style="bold", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run()
