"""Convert weights between Hugging Face folders and Megatron distributed checkpoints, a training run's among them.

    python recipes/convert.py experiment=ssft_math_32b convert.source=runs/x/checkpoints/step_0000125
        convert.folder=models/x_125
    python recipes/convert.py model=qwen25_7b convert.source=models/Qwen2.5-7B-Instruct convert.tags=true
        convert.folder=models/tagged
    python recipes/convert.py model=qwen25_7b convert.source=models/Qwen2.5-7B-Instruct convert.to=megatron
        convert.folder=models/megatron

The source is checked first, by the headers of its files. One process on the CPU holds a tensor at a time, whatever
the layout that wrote the checkpoint. The same command continues a conversion that was ended, at the file it was at.
convert.verify compares all numbers, convert.verify_logits what the models compute. Training needs no conversion: it
starts from either kind of folder (model.base) under every layout. docs/convert.md tells all of it.
"""

from rich.console import Console

from nemo_forking.cli import main


@main
def run(config) -> None:
    from nemo_forking.convert.convert import convert

    console = Console()
    folder = convert(config, tell=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    console.print(f"The model is in {folder}", style="bold", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run()
