"""The first page of the Data Docs: every expectation with its verdict, and what the source holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ferops.data.store import Summary
from ferops.emotions import EMOTIONS

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data validation: {{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem; } h2 { margin-top: 2.2rem; } a { color: #0b5cad; } code { font-size: .9em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #d7dee6; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.badge { border-radius: 1rem; padding: .1rem .7rem; font-weight: 600; white-space: nowrap; }
.passed { background: #dcf2e3; color: #14693a; } .failed { background: #fbe0de; color: #9c1f17; }
.warning { background: #fdefcf; color: #7a4b00; } .synthetic { background: #e4e1fa; color: #3f2f96; }
.bar { background: #7ba7d4; height: .35rem; margin-left: auto; } .muted { color: #5a6875; }
</style>
<h1>Data validation: {{ title }}</h1>
<p>{% if synthetic %}<span class="badge synthetic">synthetic faces</span>
  Drawn by a program, not photographed: results say nothing about real people.<br>{% endif %}
<span class="muted">dataset <code>{{ summary.sha256[:16] }}</code>, {{ "{:,}".format(rows) }} rows</span></p>
{% if blocked %}<p><span class="badge failed">stopped</span> {{ blocked | length }} blocking
  {{ "expectation" if blocked | length == 1 else "expectations" }} failed: {{ blocked | join(", ") }}.</p>
{% else %}<p><span class="badge passed">passed</span> No blocking expectation failed{% if warned %};
  {{ warned | length }} {{ "warning" if warned | length == 1 else "warnings" }}: {{ warned | join(", ") }}
  {%- endif %}.</p>{% endif %}

<h2>Expectations</h2>
<table>
<tr><th>Verdict</th><th>Finding</th><th>Expectation</th><th class="number">Observed</th>
<th class="number">Limit</th></tr>
{% for e in outcomes %}<tr>
<td><span class="badge {{ e.verdict }}">{{ e.verdict }}</span></td>
<td>{{ e.kind }}<br><span class="muted">{{ "blocking" if e.blocking else "not blocking" }}</span></td>
<td>{{ e.title }}.{% if e.detail %}<br><span class="muted">{{ e.detail }}.</span>{% endif %}
{% if not e.success %}<br><b>What to do:</b> {{ e.remedy }}{% endif %}</td>
<td class="number">{{ e.observed_text }}</td><td class="number">{{ e.limit_text }}</td></tr>
{% endfor %}{% if filled %}<tr><td><span class="badge passed">passed</span></td><td>schema<br>
<span class="muted">{{ "blocking" if filled[0].blocking else "not blocking" }}</span></td>
<td>never empty: {{ filled | map(attribute="column") | join(", ") }}.</td>
<td class="number">0 rows</td><td class="number">0 rows</td></tr>{% endif %}
</table>

{% if parts %}<h2>What the source holds</h2>
<table>
<tr><th></th>{% for part in parts %}<th class="number">{{ part }}</th>{% endfor %}</tr>
<tr><td>images</td>{% for part in parts %}
<td class="number">{{ "{:,}".format(found["rows." ~ part]) }}</td>{% endfor %}</tr>
{% for emotion in emotions %}<tr><td>{{ emotion }}</td>{% for part in parts %}
{% set count = classes[part][emotion] %}<td class="number">{{ "{:,}".format(count) }}
<div class="bar" style="width: {{ "%.1f" % (100 * count / largest[part]) }}%"></div></td>{% endfor %}</tr>
{% endfor %}{% for key, name in measured %}<tr><td>{{ name }}</td>{% for part in parts %}
<td class="number">{{ "{:,}".format(found[key ~ "." ~ part]) }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p>All together: {{ "{:,}".format(found.redundant_copies) }} redundant copies in
{{ "{:,}".format(found.copy_groups) }} groups, {{ found.conflicting_groups }} images with conflicting labels,
{{ "{:,}".format(found.test_copies_in_source_train) }} of {{ "{:,}".format(found.test_rows) }} test images
with a copy in the source's train, {{ found.test_copies_in_train_used }} as used in training.</p>{% endif %}
{% if summary.notes %}<ul>{% for note in summary.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}

<h2>Great Expectations Data Docs</h2>
<ul>{% for table, page in pages.items() %}
<li><a href="{{ page }}">{{ table }}</a>: {{ tables[table] }}</li>{% endfor %}</ul>
</html>
"""

TABLES: Mapping[str, str] = {
    "schema": "columns and types of the Parquet files",
    "images": "every row: labels, sizes, modes, ids",
    "findings": "the images as a set: balance, blanks, copies, conflicting labels",
}


def render(
    summary: Summary,
    outcomes: list[dict[str, Any]],
    found: Mapping[str, int | float],
    classes: Mapping[str, Mapping[str, int]],
    pages: Mapping[str, Path],
) -> str:
    """The page as HTML that needs nothing else, failed expectations first.

    Args:
        summary: the dataset's.
        outcomes: records of `ferops.data.validation`, with title, remedy, detail and texts.
        found: `ferops.data.findings.measure`, or empty when the rows could not be read.
        classes: rows per source split and emotion, or empty likewise.
        pages: the results page of each table, relative to this one.
    """
    filled = [e for e in outcomes if e["name"].endswith("_filled") and e["success"]]
    listed = [e for e in outcomes if e not in filled]
    parts = [name.removeprefix("rows.") for name in found if name.startswith("rows.")]
    largest = {part: max(max(classes[part].values()), 1) for part in parts}
    order = ["failed", "warning", "passed"]
    return (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            title="synthetic faces" if summary.synthetic else summary.source,
            synthetic=summary.synthetic,
            summary=summary,
            rows=found.get("rows", sum(sum(counts.values()) for counts in summary.rows.values())),
            blocked=[e["name"] for e in outcomes if e["verdict"] == "failed"],
            warned=[e["name"] for e in outcomes if e["verdict"] == "warning"],
            outcomes=sorted(listed, key=lambda e: order.index(e["verdict"])),
            filled=[{**e, "column": e["name"].removesuffix("_filled")} for e in filled],
            parts=parts,
            classes=classes,
            largest=largest,
            emotions=EMOTIONS,
            measured=[("blank_images", "blank images"), ("redundant_copies", "redundant copies inside")],
            found=found,
            pages={table: pages[table].as_posix() for table in TABLES if table in pages},
            tables=TABLES,
        )
    )
