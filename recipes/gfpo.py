"""Reinforcement learning of the choice of a tag (GFPO), or of all tokens (GRPO) by policy.scope=all.

    python recipes/prepare_prompts.py experiment=gfpo_math_32b
    torchrun --nproc-per-node 8 recipes/gfpo.py experiment=gfpo_math_32b layout=8xb200 engine=server \
        'engine.server.urls=[http://node1:8000]'

Every batch of rollouts (nemo_forking/training/policy_step.py):
    1. a forward pass over the prompts gives the policy's distribution over the tags; G tags are drawn from it;
    2. the engine takes the present weights and completes prompt + tag; the graders reward the completions;
    3. advantages within a question, and one update: at the tag only (GFPO: forward and backward over prompt + tag),
       or at every token (GRPO).

The run folder gets config.yaml, metrics.jsonl, tensorboard/, checkpoints/, rollouts/ and, at the end, model/ in Hugging
Face format. The same command continues a run that was ended: no tag is drawn and no completion graded twice.
"""

from rich.console import Console

from nemo_forking.cli import main


@main
def run(config) -> None:
    from nemo_forking.training.launch_policy import start_policy  # here, so that --help answers at once

    start_policy(config)
    Console().print(f"The model is in {config.run.folder}/model", style="bold", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run()
