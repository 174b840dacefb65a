"""The report of a study with reinforced models."""

import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from nemo_forking.errors import UserError
from nemo_forking.evaluation.report import maps, print_table, write_report
from nemo_forking.evaluation.report.policies import policies
from nemo_forking.evaluation.report.results import load, of_policies, parse, training_curves
from nemo_forking.evaluation.report.style import looks
from nemo_forking.evaluation.report.training import policy_curves
from tests.unit.made_runs import TAGS, make_policy_study
from tests.unit.test_report import STUDY_PLOTS, json_of, table_of
from tests.unit.test_report_cases import markdown_tables, row_of, the_table

MODELS = ["optimal", "random", "gfpo", "grpo", "base"]
SYSTEMS = [*MODELS, "optimal_own", "gfpo_every", "grpo_every"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("policies")
    make_policy_study(home)
    write_report(home)
    return home


def percent(value, error):
    return f"{100 * value:.1f} ± {100 * error:.1f}"


def signed(value, error):
    return f"{100 * value:+.1f} ± {100 * error:.1f}".replace("-", "−")


def test_the_table_sets_own_tags_beside_best_tag_and_oracle(made):
    results = json.loads((made / "results.json").read_text())
    table = the_table(made, "Pass@1 own tag, after")
    assert [row[0] for row in table[1:]] == ["gfpo (from optimal)", "grpo (from optimal)"]
    for name in ("gfpo", "grpo"):
        (row,) = results[name]
        cells = list(row_of(table, f"{name} (from optimal)").values())
        keys = ("start_pass@1", "pass@1", "ssft_best_tag_pass@1", "oracle_tag_pass@1")
        assert cells[1:5] == [percent(row[key], row["standard_error"][key]) for key in keys]
        gaps = [row["difference"][key] for key in keys[2:]]
        assert cells[5:7] == [signed(gap["value"], gap["standard_error"]) for gap in gaps]
        assert cells[7:9] == [f"{row[f'tag_information_bits_{when}']:.2f}" for when in ("before", "after")]
        change = row["per_tag_change"]
        points, errors = (
            signed(change["difference"][change["tag"]], 0).split(" ±")[0],
            f"{change['largest_z']:.1f} s.e.",
        )
        assert cells[9].startswith(f"{points} ({errors}, p 0.") or cells[9].startswith(f"{points} ({errors}, p 1.0")
        assert cells[10] == "1,152 (1,152 used again)"
    page = (made / "report.html").read_text()
    assert "Learning to choose the tag" in page and "biased upwards" in page
    assert table_of(page, "policies")[2][2] == percent(
        results["gfpo"][0]["pass@1"], results["gfpo"][0]["standard_error"]["pass@1"]
    )


def test_of_several_seeds_there_are_means_and_the_error_between_them(tmp_path):
    rows = make_policy_study(tmp_path, seeds=(1, 2, 3), policies=("gfpo",))["gfpo"]
    known = load(tmp_path)
    table = policies(known, looks(known.systems))
    (cells,) = table.bodies[0][1]

    def over_seeds(values, form):
        return form(np.mean(values), np.std(values, ddof=1) / 3**0.5)

    assert cells[2].text == over_seeds([row["pass@1"] for row in rows], percent)
    assert cells[6].text == over_seeds([row["difference"]["oracle_tag_pass@1"]["value"] for row in rows], signed)
    assert cells[9].text.count(";") == 2 and cells[9].below.count(";") == 4  # errors and p
    assert (cells[10].text, cells[10].below) == ("1,152", "1,152 used again")
    assert "± is the standard error over 3 seeds." in table.caption


def test_variants_come_last_and_overviews_have_every_model_once(made):
    page = (made / "report.html").read_text()
    assert [row[0] for row in table_of(page, "summary")[1:]] == SYSTEMS
    assert [row[0] for row in table_of(page, "diversity")[1:]] == MODELS
    assert [row[0] for row in table_of(page, "comparisons")[1:]] == ["optimal − gfpo", "optimal − grpo"]
    results = load(made)
    assert [system.name for system in results.models[0].systems] == MODELS
    by_tag = ["optimal", "random", "base", "gfpo_every", "grpo_every"]
    assert [system.name for system in results.by_tag[0].systems] == by_tag
    assert [row[0] for row in table_of(page, "tag-choice")[2:]] == [name for name in by_tag if name != "base"]
    assert "_own: the same model, drawing its own tags." in page
    assert json.loads(json_of(page))["benchmarks"][0]["systems"] == SYSTEMS


def test_a_model_that_draws_its_own_tags_has_no_best_tag(made):
    rows = {row[0]: row for row in table_of((made / "report.html").read_text(), "summary")}
    assert rows["gfpo"][2] == "–" and "±" in rows["gfpo_every"][2]


def test_a_variant_is_its_models_colour_paler():
    of = looks(SYSTEMS, {"optimal_own": "optimal", "gfpo_every": "gfpo", "grpo_every": "grpo"})
    assert list(of) == SYSTEMS and len({look.colour for look in of.values()}) == len(SYSTEMS)
    bright = [int(of["gfpo"].colour[at : at + 2], 16) for at in (1, 3, 5)]
    pale = [int(of["gfpo_every"].colour[at : at + 2], 16) for at in (1, 3, 5)]
    assert pale == [(one + 255) // 2 for one in bright]


def test_plots_and_their_captions_are_there(made):
    text = (made / "report.md").read_text()
    for name in (*STUDY_PLOTS, "chosen_tags", "rewards"):
        assert f"(plots/{name}.png)" in text and (made / f"plots/{name}.png").stat().st_size > 5000
    assert len(markdown_tables(text)) == len(re.findall(r"^\|(?:---:?\|)+$", text, re.MULTILINE))


def test_curves_of_the_matching_and_of_policies_are_kept_apart(made):
    curves = training_curves(load(made), made)
    assert set(curves) == {"optimal", "random", "gfpo", "grpo"}
    assert set(of_policies(curves)) == {"gfpo", "grpo"}
    assert set(of_policies(curves, False)) == {"optimal", "random"}
    assert all("reward" not in line for runs in of_policies(curves, False).values() for line in runs[0])
    rows = table_of((made / "report.html").read_text(), "convergence")
    assert [row[0] for row in rows[1:]] == ["optimal", "random"]


def test_the_console_shows_the_policies_and_cuts_no_figure(made):
    results = json.loads((made / "results.json").read_text())
    written = io.StringIO()
    print_table(made, Console(file=written, width=90))
    shown = written.getvalue()
    assert "Learning to choose the tag" in shown and "gfpo_every" not in shown and "…" not in shown
    row = results["grpo"][0]
    keys = ("start_pass@1", "pass@1", "ssft_best_tag_pass@1", "oracle_tag_pass@1")
    cells = [percent(row[key], row["standard_error"][key]) for key in keys] + ["1,152"]
    assert any(line.split("  ")[0].strip() == "grpo" and all(c in line for c in cells) for line in shown.splitlines())


def shown(results):
    """The table's only row of policy gfpo, and the maps."""
    known = parse(results)
    table = policies(known, looks(known.systems, known.variants))
    return [cell.text for cell in table.bodies[0][1][0]], maps.chosen(known.policies)


def test_no_key_of_a_policys_row_is_needed(made):
    results = json.loads((made / "results.json").read_text())
    row = results["gfpo"][0]
    assert len(row) > 20 and shown(results)[1] is not None
    keys = sorted(row)
    for left_out in [*(keys[start::4] for start in range(4)), keys]:
        cells, _ = shown(results | {"gfpo": [{key: row[key] for key in row if key not in left_out}]})
        assert cells[0] == "gfpo" and len(cells) == 11
    assert set(cells[1:]) == {"–"}


def test_a_change_without_an_error_is_shown_in_points(made):
    results = json.loads((made / "results.json").read_text())
    found = {"difference": [0.0] * (TAGS - 1) + [-1.0], "largest_z": None, "tag": TAGS - 1, "p_value": 0.0005}
    results["gfpo"][0]["per_tag_change"] = found
    known = parse(results)
    cell = policies(known, looks(known.systems)).bodies[0][1][0][9]
    assert (cell.text, cell.below) == ("−100.0", "– s.e., p 0.0005")


def test_policies_without_systems_of_their_own_still_have_their_section(made):
    results = json.loads((made / "results.json").read_text())
    del results["policies"]
    known = parse(results)
    assert [system.name for system in known.benchmarks[0].systems] == ["optimal", "random", "base"]
    assert set(of_policies(training_curves(known, made))) == {"gfpo", "grpo"}
    assert shown(results)[0][0] == "gfpo"


def test_a_policy_among_the_systems_of_an_evaluation_has_its_curves(made):
    results = json.loads((made / "results.json").read_text())
    systems = results["rules"] | {"gfpo": results["policies"]["gfpo"]}
    known = parse({"benchmarks": {"many_ways": {"systems": systems}}})
    assert policies(known, {}) is None and maps.chosen(known.policies) is None
    of = of_policies(training_curves(known, made))
    assert list(of) == ["gfpo"] and policy_curves(of, looks(known.systems)) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gfpo": {}}, "field 'gfpo' is not a list of rows"),
        ({"policy_names": "gfpo"}, "field 'policy_names' is not a list"),
        ({"policy_names": ["ppo"]}, "field 'ppo' is not a list of rows"),
        ({"policies": {"gfpo": []}}, "field 'policies.gfpo' is not a list of rows"),
        ({"policies": []}, "field 'policies' is not an object"),
    ],
)
def test_unusable_policies_are_named(made, change, message):
    results = json.loads((made / "results.json").read_text())
    with pytest.raises(UserError, match=message):
        parse(results | change)
