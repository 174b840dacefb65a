"""The report's words and layout: one HTML page without outside parts, and the same in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

INTRODUCTION = (
    "One model, {tags} tags. Every held-out question is answered once under every tag and round; a rule is how "
    "training chose which tag learns which teacher's trace."
)
CAPTIONS = {
    "rules": "Pass@1 is the mean over tags; best tag is the tag of the highest Pass@1 on these questions; Cons@{tags} "
    "votes over one answer per tag (unparsable answers cast no vote, ties go to the earliest tag); Pass@{tags} asks "
    "whether any tag is right.",
    "training": "Thin: every step. Thick: moving average. A line a seed. Entropy falls when every teacher settles on "
    "tags of its own; the change rate is the share of traces that a question's last visit gave to another tag.",
    "routes": "Share of a tag's completions (%) by the route a parser found in the text. First seed.",
    "kinds": "A tag's Pass@1 (%) by kind of question. First seed.",
    "tags": "Pass@1 with standard error over questions, and mean completion length. First seed.",
}
SECTIONS = (
    ("rules", "Accuracy by rule"),
    ("training", "What training did"),
    ("routes", "What each tag came to do"),
    ("kinds", "Where each tag is strong"),
    ("tags", "Accuracy and length by tag"),
)
SLOTS = "For a model without tags, and for the rule mixed, the tags are {tags} independent samples of one prompt."

STYLE = """
:root {
  color-scheme: light;
  --ink: #1d1d1f; --soft: #6b6b70; --line: #e3e3e6; --wash: #f7f7f8; --right: #2c7a4b; --wrong: #b3413a;
}
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 2rem; letter-spacing: -0.02em; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 3.2rem 0 .8rem; }
h3 { font-size: .95rem; margin: 1.6rem 0 .5rem; }
p { max-width: 46rem; margin: 0 0 .8rem; }
.soft, figcaption { color: var(--soft); font-size: .88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
.scroll + p { margin-top: .8rem; }
th, td { padding: .42rem 1.1rem .42rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: .82rem; }
.figures td + td, .figures th + th { text-align: right; padding-left: 1.1rem; white-space: nowrap; }
.summary tbody tr:first-child { font-weight: 600; }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { max-width: 46rem; margin-top: .5rem; }
select { font: inherit; padding: .35rem .6rem; border: 1px solid #c9c9ce; border-radius: 6px; background: #fff; }
select { max-width: 100%; }
.cards { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(9.6rem, 1fr); gap: .6rem; }
.card { border: 1px solid var(--line); border-top: 3px solid var(--wrong); border-radius: 6px; }
.card { background: var(--wash); padding: .55rem .65rem; }
.card.right { border-top-color: var(--right); }
.card header { font-size: .78rem; color: var(--soft); margin-bottom: .35rem; }
.card pre { margin: 0; font: .74rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.card pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22rem; overflow-y: auto; }
.card footer { font-size: .8rem; margin-top: .45rem; color: var(--wrong); }
.card.right footer { color: var(--right); }
details summary { cursor: pointer; color: var(--soft); }
.provenance td { font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.provenance td:first-child { color: var(--soft); white-space: nowrap; }
"""

HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} · nemo-forking</title>
<style>
{{ style }}
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="soft">{{ introduction }}</p>

<h2>Summary</h2>
<div class="scroll">
<table class="figures summary">
<thead><tr><th>rule</th>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, cells in rows %}<tr><td>{{ name }}</td>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
</div>
<p class="soft">Rates in percent. {{ spread[0] | upper }}{{ spread[1:] }}. {{ slots }}</p>

{% for name, heading in sections if name in images %}
<h2>{{ heading }}</h2>
<figure>
<img src="{{ images[name].source }}" width="{{ images[name].width }}" alt="{{ heading }}">
<figcaption>{{ captions[name] }}</figcaption></figure>
{% endfor %}

{% if questions %}
<h2>One question, {{ tags }} ways</h2>
<p><label>Question <select id="question">
{% for question in questions %}<option value="{{ loop.index0 }}">
{{ question.kind }}: {{ question.asked | truncate(80) }}
{% endfor %}</select></label></p>
{% for question in questions %}
<section class="question" id="question-{{ loop.index0 }}">
<p>{{ question.asked }} <span class="soft">Right answer: {{ question.gold }}. First seed, first round.</span></p>
{% for name, samples in question.systems %}
<h3>{{ name }}</h3>
<div class="scroll"><div class="cards">
{% for sample in samples %}
<article class="card{{ ' right' if sample.correct }}">
<header>tag {{ sample.tag + 1 }} · {{ sample.route or 'no route' }} · {{ sample.tokens }} tokens</header>
<pre>{{ sample.text }}</pre>
<footer>{{ 'no answer' if sample.answer is none else sample.answer }} {{ '✓' if sample.correct else '✗' }}
{{ '(cut off)' if sample.finish == 'length' }}</footer>
</article>
{% endfor %}</div></div>
{% endfor %}
</section>
{% endfor %}
{% endif %}

<h2>Provenance</h2>
{% if seconds %}
<h3>Wall time</h3>
<table class="figures"><tbody>{% for stage, time in seconds %}<tr><td>{{ stage }}</td><td>{{ time }}</td></tr>
{% endfor %}</tbody></table>
{% endif %}
{% if provenance %}
<h3>What made these figures</h3>
<details><summary>{{ provenance | length }} entries</summary>
<div class="scroll"><table class="provenance"><tbody>
{% for name, value in provenance %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</tbody></table></div></details>
{% endif %}
</main>
<script>
const chooser = document.getElementById("question");
const sections = document.querySelectorAll("section.question");
const show = () => sections.forEach((section, index) => { section.hidden = index !== Number(chooser.value); });
if (chooser) { chooser.addEventListener("change", show); show(); }
</script>
</body>
</html>
"""

MARKDOWN = """# {{ title }}

{{ introduction }}

| rule |{% for column in columns %} {{ column }} |{% endfor %}

|---|{% for column in columns %}---:|{% endfor %}

{% for name, cells in rows %}| {{ name }} |{% for cell in cells %} {{ cell }} |{% endfor %}

{% endfor %}

Rates in percent. {{ spread[0] | upper }}{{ spread[1:] }}. {{ slots }}

{% for name, heading in sections if name in images %}
## {{ heading }}

![{{ heading }}]({{ images[name].source }})

{{ captions[name] }}

{% endfor %}
{% if questions %}
## One question, {{ tags }} ways

{{ questions[0].asked }} (kind: {{ questions[0].kind }}; right answer: {{ questions[0].gold }}; first seed, first round)

{% for name, samples in questions[0].systems %}
### {{ name }}

{% for sample in samples %}
tag {{ sample.tag + 1 }}, {{ sample.route or 'no route' }}, {{ sample.tokens }} tokens:
{{ 'right' if sample.correct else 'wrong' }}

{{ sample.text | indented }}

{% endfor %}
{% endfor %}
{% endif %}
## Provenance

{% if seconds %}
| stage | wall time |
|---|---:|
{% for stage, time in seconds %}
| {{ stage }} | {{ time }} |
{% endfor %}

{% endif %}
{% for name, value in provenance %}
- {{ name }}: {{ value | inline }}
{% endfor %}
"""


@dataclass(frozen=True)
class Image:
    """Where a plot is found (a path or a data URL) and how wide it is shown, in CSS pixels."""

    source: str
    width: int


def html_page(content: dict, images: dict[str, Image]) -> str:
    """The page with its plots by name. Everything a model wrote is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(HTML).render(_filled(content, images))


def markdown_page(content: dict, images: dict[str, Image]) -> str:
    """The same in Markdown, with the completions of one question only."""
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["indented"] = lambda text: "\n".join("    " + line for line in text.splitlines())
    environment.filters["inline"] = _inline
    return environment.from_string(MARKDOWN).render(_filled(content, images))


def _filled(content: dict, images: dict[str, Image]) -> dict:
    tags = content["tags"]
    return {
        **content,
        "images": images,
        "style": Markup(STYLE),
        "sections": SECTIONS,
        "captions": {name: caption.format(tags=tags) for name, caption in CAPTIONS.items()},
        "introduction": INTRODUCTION.format(tags=tags),
        "slots": SLOTS.format(tags=tags),
    }


def _inline(value: str) -> str:
    """Text of one line as it is; several lines as an indented block under the list item."""
    lines = value.splitlines()
    return value if len(lines) < 2 else "\n\n" + "\n".join("      " + line for line in lines) + "\n"
