"""The gate's decision as one HTML page that needs nothing beside it: no script, no style sheet, no image."""

import base64
import re
from collections.abc import Mapping
from importlib.resources import files as resources
from pathlib import Path

from markupsafe import Markup, escape

from ferops import files
from ferops.evaluation.evaluate import FIGURES, EvaluationError, Result
from ferops.promotion.decision import Decision
from ferops.promotion.rules import BOUNDS, TITLES

ALT_TEXTS: Mapping[str, str] = {
    "confusion_matrix.png": "Confusion matrix of the test split, true emotion in rows",
    "reliability.png": "Reliability diagram: accuracy by confidence",
    "batch_invariance.png": "Accuracy and largest change of a probability by arrangement of the batches",
}


def write(path: Path, decision: Decision, evaluations: Mapping[str, Path]) -> None:
    """Render the page, with the figures of each candidate that was evaluated."""
    from jinja2 import Environment, StrictUndefined

    source = resources("ferops.promotion").joinpath("templates/gate.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    environment.filters["code"] = code
    html = environment.from_string(source).render(
        decision=decision,
        titles=TITLES,
        bounds=BOUNDS,
        results={name: _result(folder) for name, folder in evaluations.items()},
        figures={name: _figures(folder) for name, folder in evaluations.items()},
    )
    files.write_text(path, html)


def number(value: float | None) -> str:
    """A number as a person reads it; a dash where there is none.

    >>> number(0.00000024), number(0.71234), number(None)
    ('2.4e-07', '0.7123', '–')
    """
    if value is None:
        return "–"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def code(text: str) -> Markup:
    """Text for HTML, with what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _result(folder: Path) -> Result | None:
    try:
        return Result.load(folder)
    except EvaluationError:
        return None


def _figures(folder: Path) -> list[tuple[str, str]]:
    """Each figure that is there, as a data address, with its alternative text."""
    found = []
    for name in FIGURES:
        path = folder / "figures" / name
        if path.is_file():
            encoded = base64.b64encode(path.read_bytes()).decode()
            found.append((f"data:image/png;base64,{encoded}", ALT_TEXTS[name]))
    return found
