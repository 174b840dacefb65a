"""What the benchmarks answer to --help, and to words that they do not understand."""

import pytest

from benchmarks import matching, policy_update, set_step, training_step


@pytest.mark.parametrize(
    ("benchmark", "word", "message"),
    [
        (matching, "vocabluary=9", "unknown key vocabluary; did you mean vocabulary?"),
        (matching, "layers=0", "layers=0: expected an integer >= 1"),
        (matching, "layers", "'layers' is not key=value"),
        (matching, "layers=[4", "'layers=[4' has no value that YAML can read"),
        (matching, "pack=100", "pack=100 is less than the longest row's "),
        (policy_update, "rollout=9", "unknown key rollout; did you mean rollouts?"),
        (policy_update, "rollouts=5", "rollouts=5 is no multiple of tags=4"),
        (policy_update, "completions=[]", "completions=[] is empty"),
        (policy_update, "pack=100", "pack=100 is less than the longest row's "),
        (policy_update, "fork_pack=100", "fork_pack=100 is less than the longest row's "),
        (set_step, "trace_s=9", "unknown key trace_s; did you mean traces?"),
        (set_step, "traces=7", "traces=7 is more than tags=6"),
        (set_step, "pack=100", "pack=100 is less than a row's "),
        (set_step, "match_pack=100", "match_pack=100 is less than a row's "),
        (training_step, "length=9", "unknown key length; did you mean lengths?"),
        (training_step, "lengths=[30]", "lengths=[30]: each must be more than prompt=37"),
        (training_step, "recompute=[]", "recompute=[] compile=[False]: give at least one of each"),
        (training_step, "recompute=[some]", "recompute=['some']"),
    ],
)
def test_a_word_it_does_not_understand_is_answered_before_anything_runs(benchmark, word, message, capsys):
    assert benchmark.main([word]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("benchmark", "default"),
    [
        (matching, "vocabulary=152064 "),
        (policy_update, "vocabulary=3802 "),
        (set_step, "vocabulary=594 "),
        (training_step, "lengths=(1024, 4096) "),
    ],
)
def test_help_lists_keys_with_the_defaults_of_this_machine(benchmark, default, capsys):
    assert benchmark.main(["--help"]) == 0
    assert f"  {default}" in capsys.readouterr().out
