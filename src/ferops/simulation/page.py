"""A simulation on one HTML page that needs nothing beside it, with its plot and its numbers as files."""

from importlib.resources import files as resources
from pathlib import Path

from ferops import files
from ferops.emotions import EMOTIONS
from ferops.simulation import figures
from ferops.simulation.timeline import POINT, Timeline, clock


def write(timeline: Timeline, out: Path) -> Path:
    """Write `index.html`, `simulation.png` and `simulation.json` into a folder; the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / "simulation.json", timeline.model_dump(mode="json"))
    figures.save(timeline, out / "simulation.png")
    files.write_text(out / "index.html", render(timeline))
    return out / "index.html"


def render(timeline: Timeline) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = resources("ferops.simulation").joinpath("page.html").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["clock"] = clock
    environment.filters["percent"] = _percent
    spans = {"before the drift": timeline.before, "during": timeline.during}
    if timeline.after:
        spans["after the swap"] = timeline.after
    return environment.from_string(source).render(
        found=timeline,
        plan=timeline.plan,
        plots={
            "wide": Markup(figures.inline(timeline, 8.6)),
            "narrow": Markup(figures.inline(timeline, 4.4)),
        },
        spans=spans,
        emotions=EMOTIONS,
        point=POINT,
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}\u00a0%"
