"""Prepare the questions of reinforcement learning.

python recipes/prepare_prompts.py prompts=dapo_math benchmarks=[aime24,aime25,math500]
"""

from rich.console import Console

from nemo_forking.cli import recipe


@recipe()
def main(config) -> None:
    """Check questions, take out repetitions and those of the benchmarks, draw a subset; write the folder RL reads.

    Prints what became of the rows, what was taken out and why, and one prompt.
    """
    from nemo_forking.rl.prompts import load_prompts, prepare_prompts
    from nemo_forking.rl.prompts.show import print_sample

    console = Console()
    folder = prepare_prompts(config)
    prompts, _ = load_prompts(folder)
    print_sample(console, prompts[0])
    console.print(f"Prepared {len(prompts):,} prompts in {folder}", style="bold", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
