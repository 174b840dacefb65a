"""Turn raw traces into a prepared folder.

python recipes/prepare_data.py data=real_traces data.source=[traces.jsonl] data.tokenizer=path/to/tokenizer
"""

from rich.console import Console

from nemo_forking.cli import recipe


@recipe()
def main(config) -> None:
    """Check, filter and tokenise questions with traces; write the folder that training reads.

    Prints the problems found, length statistics, and one sample with its loss mask.
    """
    from nemo_forking.data.encoding import load_tokenizer
    from nemo_forking.data.prepare import prepare
    from nemo_forking.data.show import print_problems, print_sample, print_summary, progress_bar
    from nemo_forking.data.token_file import TokenFile
    from nemo_forking.tags import add_to_tokenizer, make_tags

    console = Console()
    with progress_bar(console, "Preparing") as advance:
        prepared = prepare(config.data, advance, on_report=lambda report: print_problems(console, report))
    if prepared.report is None:
        console.print("Up to date: the same files were prepared with the same settings before.")
    print_summary(console, prepared.manifest)

    tokenizer = load_tokenizer(config.data.tokenizer)
    tags = make_tags(tokenizer, config.tags.spelling, config.tags.count, vocabulary_rows=config.model.vocab_size)
    file = TokenFile(prepared.folder)
    sample = file.question(0)
    print_sample(console, sample, file.teachers, tags, add_to_tokenizer(tokenizer, tags), config.loss.include_tag)
    console.print(f"Prepared {len(file)} questions in {prepared.folder}", style="bold", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
