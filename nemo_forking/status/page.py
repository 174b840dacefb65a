"""The status as one HTML page that needs nothing else and reloads itself while the run goes on."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path

from nemo_forking.files import write_aside
from nemo_forking.status import svg
from nemo_forking.status.run import RunStatus
from nemo_forking.status.words import facts, measures, number

FILE = "status.html"
CSS = """
:root { color-scheme: light; --ink: #1d1d1f; --soft: #65656b; --line: #e3e3e6; --wash: #f7f7f8;
  --good: #2c7a4b; --fair: #8a6414; --bad: #b3413a; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 2.2rem 1.4rem 4rem; }
h1 { font-size: 1.7rem; letter-spacing: -.02em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: .92rem; margin: 0 0 .2rem; }
h2 span { font-weight: 400; color: var(--soft); display: block; }
.soft { color: var(--soft); font-size: .85rem; }
.bar { height: 8px; border-radius: 4px; background: var(--line); margin: 1rem 0; overflow: hidden; }
.bar div { height: 100%; background: #1f5a8a; }
table { border-collapse: collapse; width: 100%; margin-bottom: 1.8rem; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem 0; border-bottom: 1px solid var(--line); }
th { width: 8rem; font-weight: 400; color: var(--soft); }
td { white-space: pre-wrap; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .fair { color: var(--fair); } .bad { color: var(--bad); }
td.long { font: .76rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.6rem 2rem; }
section { min-width: 0; } svg { width: 100%; height: auto; display: block; }
"""


def write_page(run: RunStatus, every: float) -> Path:
    """Write `status.html` into the run's folder; a browser loads it again every so many seconds."""
    write_aside(run.folder / FILE, page(run, every))
    return run.folder / FILE


def page(run: RunStatus, every: float) -> str:
    """The page."""
    reload = "" if run.over else f'<meta http-equiv="refresh" content="{max(1, round(every))}">\n'
    rows = "".join(_row(*fact) for fact in facts(run))
    share = 100 * run.step / run.steps if run.steps else 0
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{reload}<title>{escape(run.name)}: {escape(run.progress)}</title><style>{CSS}</style></head>
<body><main>
<h1>{escape(run.name)}</h1>
<div class="soft">{escape(str(run.folder))}, as of {time.strftime("%Y-%m-%d %H:%M:%S %Z")}</div>
<div class="bar" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100">
<div style="width:{share:.1f}%"></div></div>
<table>{rows}</table>
<div class="plots">{"".join(_plots(run))}</div>
</main></body></html>
"""


def _row(label: str, words: str, tone: str) -> str:
    kind = f"{tone} {'long' if chr(10) in words else ''}".strip()
    return f'<tr><th scope="row">{escape(label)}</th><td class="{kind}">{escape(words)}</td></tr>\n'


def _plots(run: RunStatus) -> list[str]:
    plots = [_plot(label, last, svg.line(steps, values)) for label, last, steps, values in measures(run)]
    timed = [line for line in run.lines if line.get("seconds")]
    if timed:
        phases = dict.fromkeys(phase for line in timed for phase in line["seconds"])
        layers = {phase: [line["seconds"].get(phase, 0.0) for line in timed] for phase in phases}
        total = sum(timed[-1]["seconds"].values())
        drawn = svg.stack([line["step"] for line in timed], layers)
        plots.append(_plot("Seconds by phase", f"{number(total)} s a step", drawn))
    return plots


def _plot(label: str, last: str, drawn: str) -> str:
    return f"<section><h2>{escape(label)} <span>{escape(last)}</span></h2>{drawn}</section>\n"
