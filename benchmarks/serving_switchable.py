"""The service with a switch on its log, for `benchmarks/logging_cost.py`: `POST /log/<mode>` turns it.

written        as it is: every prediction is a line in the log before it is answered
not_written    lines are neither made nor written
not_described  nor are the descriptors computed, which are for the log alone

One process for all modes: two would differ by where their memory happens to lie. One worker only, for the
others would not hear of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ferops.serving import describe, service
from ferops.serving.prediction_log import Kind, PredictionLog

MODES = ("written", "not_written", "not_described")

FerClassifier = service.FerClassifier

_mode = "written"
_append, _describe = PredictionLog._append, describe.describe


async def turn(request: Request) -> Response:
    """Take another mode from the next request on."""
    global _mode
    if request.path_params["mode"] not in MODES:
        raise HTTPException(404)
    _mode = request.path_params["mode"]
    return PlainTextResponse(_mode)


def append(log: PredictionLog, kind: Kind, records: Sequence[Mapping[str, Any]]) -> bool:
    """`PredictionLog._append`, or nothing."""
    return _append(log, kind, records) if _mode == "written" else True


def described(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`describe.describe`, or zeros."""
    return np.zeros((len(grey), len(describe.NAMES))) if _mode == "not_described" else _describe(grey)


PredictionLog._append = append  # type: ignore[method-assign]
describe.describe = described
service.app.router.routes.append(Route("/log/{mode}", turn, methods=["POST"]))
