"""The report in a real browser: nothing on the console, tables and plots there, and the viewer does what it should.

Needs Debian's packages chromium and chromium-driver; skipped without them, unless NEMO_FORKING_REQUIRE_BROWSER=1.
"""

import json
import os
from urllib.parse import quote

import pytest

from nemo_forking.evaluation.published import load as load_published
from nemo_forking.evaluation.report import write_report
from tests.browser.driver import Browser, installed
from tests.unit.made_runs import HOSTILE, make_evaluation, make_old_study, make_policy_study, make_study

CELLS = """
return [...document.querySelectorAll('#table-' + arguments[0] + ' tr')]
  .map((row) => [...row.cells].map((cell) => cell.innerText.trim()));
"""
BLANK = """
return Promise.all([...document.images].map(async (image) => {
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let dark = 0, coloured = 0;
  for (let at = 0; at < pixels.length; at += 4) {
    const [red, green, blue] = pixels.slice(at, at + 3);
    dark += Math.max(red, green, blue) < 90;
    coloured += Math.max(red, green, blue) - Math.min(red, green, blue) > 40;
  }
  return {width: image.naturalWidth, shown: image.clientWidth, alt: image.alt, dark, coloured};
}));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = installed()
    if not found:
        reason = "needs chromium and chromedriver (Debian's packages chromium and chromium-driver)"
        assert os.environ.get("NEMO_FORKING_REQUIRE_BROWSER") != "1", reason
        pytest.skip(reason)
    with Browser(*found, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Kind of run -> its folder with a report."""
    folders = {}
    makes = {"evaluation": make_evaluation, "study": make_study, "policies": make_policy_study}
    for kind, make in (makes | {"old study": make_old_study}).items():
        folders[kind] = tmp_path_factory.mktemp("runs") / kind
        folders[kind].mkdir()
        make(folders[kind])
        write_report(folders[kind])
    return folders


def address(folder, place=""):
    return (folder / "report.html").as_uri() + place


def shown(browser):
    """What the viewer shows: its selects, and the cards of every system."""
    return browser.run(
        """
        const at = (name) => document.getElementById('viewer-' + name).selectedOptions[0].textContent;
        const cards = [...document.querySelectorAll('#viewer-traces .cards')].map((row) =>
          [...row.querySelectorAll('.card')].map((card) => card.innerText));
        return {benchmark: at('benchmark'), question: at('question'), round: at('round'), cards,
                gold: document.getElementById('viewer-gold').textContent, hash: location.hash};
        """
    )


@pytest.mark.parametrize("kind", ["evaluation", "study", "policies", "old study"])
def test_nothing_is_said_on_the_console_and_every_plot_is_drawn(browser, reports, kind):
    browser.open(address(reports[kind]))
    images = browser.run(BLANK)
    assert len(images) == len(list((reports[kind] / "plots").glob("*.png"))) >= 4
    for image in images:
        assert image["width"] > 300 and image["shown"] > 150 and image["alt"], image
        assert image["dark"] > 100 and image["coloured"] > 500, f"{image['alt']}: blank"
    browser.press("right", "left")
    assert browser.messages() == []
    assert browser.run("return window.hacked") is None


def test_the_tables_show_what_was_measured(browser, reports):
    results = json.loads((reports["evaluation"] / "results.json").read_text())
    browser.open(address(reports["evaluation"]))
    rows = browser.run(CELLS, "summary")
    row = results["benchmarks"]["aime24"]["systems"]["ours"][0]
    assert rows[2][1] == f"{100 * row['pass@1']:.1f} ± {100 * row['standard_error']['pass@1']:.1f}"
    assert rows[2][3] == f"{100 * row['cons@6']:.1f} ± {100 * row['standard_error']['cons@6']:.1f}"
    tables = browser.run("return [...document.querySelectorAll('table')].map((t) => [t.id, t.innerText.length])")
    assert len(tables) >= 10 and all(length > 60 for _, length in tables)
    assert len({name for name, _ in tables}) == len(tables)


def test_the_papers_table_sets_measured_beside_published(browser, reports):
    results = json.loads((reports["evaluation"] / "results.json").read_text())
    browser.open(address(reports["evaluation"]))
    cells = next(row for row in browser.run(CELLS, "paper-1") if row[0].startswith("SSFT-32B\n"))
    published = load_published().find("pass@1", "SSFT-32B", "aime24").value
    tag1 = results["benchmarks"]["aime24"]["systems"]["ours"][0]["tag_choice"]["tag1"]
    points = 100 * tag1["pass@1"] - published
    assert cells[1] == f"{published:.2f}"
    assert cells[2] == f"{100 * tag1['pass@1']:.1f} ± {100 * tag1['standard_error']:.1f}"
    errors = f"{points / tag1['standard_error'] / 100:+.1f}"
    assert cells[3].replace("−", "-").split("\n") == [f"{points:+.1f}", f"{errors} s.e."]
    assert browser.run("return document.querySelector('#paper details')") is None


def test_policies_stand_in_a_table_and_their_systems_in_the_viewer(browser, reports):
    results = json.loads((reports["policies"] / "results.json").read_text())
    browser.open(address(reports["policies"]))
    cells = next(row for row in browser.run(CELLS, "policies") if row[0].startswith("gfpo"))
    row = results["gfpo"][0]
    assert cells[0].split("\n") == ["gfpo", "from optimal"]
    assert cells[2] == f"{100 * row['pass@1']:.1f} ± {100 * row['standard_error']['pass@1']:.1f}"
    names = browser.run("return [...document.querySelectorAll('#viewer-systems label')].map((one) => one.innerText)")
    assert [name.strip() for name in names] == [
        "optimal",
        "random",
        "gfpo",
        "grpo",
        "base",
        "optimal_own",
        "gfpo_every",
        "grpo_every",
    ]
    assert ", tag " in shown(browser)["cards"][2][0]
    assert browser.messages() == []


def test_a_study_keeps_the_papers_tables_folded(browser, reports):
    browser.open(address(reports["study"]))
    assert browser.run("return document.querySelector('#paper details').open") is False
    assert browser.run("return document.querySelector('#table-paper-1').checkVisibility()") is False


def test_the_viewer_turns_to_questions_by_select_buttons_and_keys(browser, reports):
    browser.open(address(reports["evaluation"]))
    browser.wait("document.querySelectorAll('#viewer-traces .card').length")
    first = shown(browser)
    assert first["benchmark"] == "AIME24" and first["gold"] == "0" and first["hash"] == ""
    assert [len(row) for row in first["cards"]] == [6, 6]
    assert all(card.startswith(f"tag {tag + 1}") and "right" in card for tag, card in enumerate(first["cards"][0]))

    browser.choose("#viewer-question", 2)
    third = shown(browser)
    assert third["gold"] == "2" and "unparsable" in third["cards"][0][0] and "<b>no box</b>" in third["cards"][0][0]
    assert third["hash"] == "#aime24/" + quote("q/2 <b>", safe="") + "/1"
    browser.click("h1")
    browser.press("right")
    assert shown(browser)["gold"] == "3" and "timed out" in shown(browser)["cards"][1][0]
    browser.press("left", "left")
    assert shown(browser)["gold"] == "1"
    browser.click("#viewer-next")
    assert shown(browser)["gold"] == "2"

    browser.choose("#viewer-round", 1)
    assert "trace 2/0/1 of seed" in shown(browser)["cards"][0][0]
    browser.choose("#viewer-benchmark", 2)
    last = shown(browser)
    assert last["benchmark"] == "home <made>" and last["gold"] == "0" and last["round"] == "1"
    browser.click("#viewer-systems label:nth-of-type(1) input")
    assert len(shown(browser)["cards"]) == 1 and shown(browser)["cards"][0][0].startswith("sample 1")
    assert browser.messages() == []


def test_an_arrow_key_in_a_select_is_the_selects(browser, reports):
    browser.open(address(reports["evaluation"]))
    browser.run("document.getElementById('viewer-round').focus()")
    browser.press("right")
    assert shown(browser)["gold"] == "0"


def test_an_address_leads_to_its_question_and_follows_changes(browser, reports):
    place = "#math500/" + quote("q/3 <b>", safe="") + "/2"
    browser.open(address(reports["evaluation"], place))
    there = shown(browser)
    assert (there["benchmark"], there["gold"], there["round"]) == ("MATH-500", "3", "2")
    top = browser.run("return document.getElementById('viewer').getBoundingClientRect().top")
    assert -1 < top < 700  # a window scrolls by whole pixels
    browser.run("location.hash = arguments[0]", "#aime24/" + quote("q/1 <b>", safe="") + "/1")
    browser.wait("document.getElementById('viewer-gold').textContent === '1'")
    browser.run("location.hash = '#summary'")
    assert shown(browser)["gold"] == "1"
    for odd in ("#aime24/nobody/1", "#aime24/%E0%A4%A/1", "#math500/" + quote("q/0 <b>", safe="") + "/x", "#a/b/c"):
        browser.open(address(reports["evaluation"], odd))
        assert len(shown(browser)["cards"]) == 2
        assert browser.messages() == []


def test_hostile_text_is_shown_as_text(browser, reports):
    browser.open(address(reports["evaluation"]))
    browser.wait("document.querySelectorAll('#viewer-traces .card').length")
    text = browser.run("return document.querySelector('#viewer-traces pre').textContent")
    expected = HOSTILE.replace("\0", "␀").replace("\7", "␇").replace("\ud800", "?")
    assert text.startswith(expected + "trace 0/0/0") and text.endswith(" end 0/0/0")
    assert browser.run("return document.querySelectorAll('#viewer img, #viewer b b, #viewer script').length") == 0
    assert browser.run("return document.querySelector('.question').textContent").startswith("What is <i>0</i> & 0")
    assert browser.run("return window.hacked") is None


@pytest.mark.parametrize("width", [1400, 1200, 800, 500])
@pytest.mark.parametrize("kind", ["evaluation", "study", "policies"])
def test_the_page_is_never_wider_than_the_window(browser, reports, kind, width):
    browser.open(address(reports[kind]), width)
    inside, page = browser.run("return [innerWidth, document.documentElement.scrollWidth]")
    assert page <= inside
    pages = "[...document.querySelectorAll('.card')].filter((card) => card.scrollWidth > card.clientWidth + 1).length"
    assert browser.run(f"return {pages}") == 0


def test_it_prints_with_everything_unfolded(browser, reports):
    browser.open(address(reports["study"]))
    assert browser.print().startswith(b"%PDF")
    assert browser.run("return [...document.querySelectorAll('details')].every((one) => one.open)")
    assert browser.messages() == []


def test_controls_have_labels_and_scrolling_parts_take_the_focus(browser, reports):
    browser.open(address(reports["evaluation"]))
    unnamed = browser.run(
        """
        const bare = (one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim();
        return [...document.querySelectorAll('select, input, button')].filter(bare).map((one) => one.outerHTML);
        """
    )
    assert unnamed == []
    scrolling = browser.run(
        """
        const scrolls = (one) => one.scrollHeight > one.clientHeight + 1 && getComputedStyle(one).overflowY === 'auto';
        return [...document.querySelectorAll('pre, .scroll')].filter((one) => scrolls(one) && one.tabIndex < 0).length;
        """
    )
    assert scrolling == 0
