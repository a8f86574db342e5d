"""A batch leak explained on one HTML page that needs nothing beside it."""

import base64
import io
from collections.abc import Mapping
from importlib.resources import files as resources

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from ferops.emotions import EMOTIONS
from ferops.evaluation.batch_invariance import Arrangement
from ferops.explanation import figures
from ferops.explanation.result import COMPANIES, Explanation

#: Arrangements in the words of the page.
WORDS: Mapping[Arrangement, str] = {
    "single": "alone",
    "shuffled": "in a shuffled batch",
    "other_size": "in a smaller shuffled batch",
    "class_sorted": "in a class-sorted batch",
}


def render(explanation: Explanation, faces: Mapping[str, NDArray[np.uint8]]) -> str:
    """The page.

    Args:
        explanation: all numbers.
        faces: grey uint8 `[side, side]` by id, of the examples and those beside them.
    """
    from jinja2 import Environment, StrictUndefined

    source = resources("ferops.explanation").joinpath("templates/batch_leak.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    environment.filters["points"] = points
    environment.filters["span"] = span
    plots = [Markup(plot) for plot in figures.inline(explanation)]
    return environment.from_string(source).render(
        found=explanation,
        model=explanation.model,
        twin=explanation.twin,
        plots=plots,
        faces={identity: _address(face) for identity, face in faces.items()},
        emotions=EMOTIONS,
        words=WORDS,
        companies=COMPANIES,
    )


def percent(share: float | None, decimals: int = 1) -> str:
    """A share as a person reads it; a dash where there is none.

    >>> percent(0.58342), percent(None)
    ('58.3 %', '–')
    """
    return "–" if share is None else f"{share:.{decimals}%}".replace("%", "\u00a0%")


def span(interval: tuple[float, float], decimals: int = 1) -> str:
    """An interval of shares.

    >>> span((0.503, 0.534))
    '50.3 to 53.4 %'
    """
    return f"{100 * interval[0]:.{decimals}f} to {100 * interval[1]:.{decimals}f}\u00a0%"


def points(difference: float) -> str:
    """A difference of two shares, in percentage points with its sign.

    >>> points(0.129), points(-0.0041), points(0.0)
    ('+12.9', '−0.4', '0.0')
    """
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def _address(face: NDArray[np.uint8]) -> str:
    content = io.BytesIO()
    Image.fromarray(face).save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
