"""The release's card for people: what the model is, how good, made from what, and not for what."""

from collections.abc import Mapping
from importlib.resources import files as resources
from typing import Any

from ferops.emotions import EMOTIONS
from ferops.evaluation.evaluate import Result
from ferops.models.classifier import Card
from ferops.promotion.decision import CandidateVerdict
from ferops.promotion.gate_page import number
from ferops.promotion.release import Manifest
from ferops.promotion.rules import BOUNDS, TITLES
from ferops.settings import Settings

#: Figures of the evaluation that the card shows.
FIGURES = ("confusion_matrix.png", "reliability.png")


def render(
    manifest: Manifest,
    card: Card,
    result: Result,
    verdict: CandidateVerdict,
    validation: Mapping[str, Any],
    settings: Settings,
    epochs: int,
    sizes: Mapping[str, int],
) -> str:
    """Markdown of `README.md`.

    `validation` is what the release's `validation.json` holds, `epochs` how many were trained, and `sizes`
    are the bytes of each file.
    """
    from jinja2 import Environment, StrictUndefined

    source = resources("ferops.promotion").joinpath("templates/model_card.md.j2").read_text("utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["percent"] = percent
    environment.filters["number"] = number
    return environment.from_string(source).render(
        manifest=manifest,
        card=card,
        result=result,
        verdict=verdict,
        validation=validation,
        settings=settings,
        epochs=epochs,
        sizes=sizes,
        emotions=EMOTIONS,
        bounds=BOUNDS,
        titles=TITLES,
    )


def percent(value: float | None) -> str:
    """A share in per cent with one decimal; a dash where there is none.

    >>> percent(0.7123), percent(None)
    ('71.2', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}"
