"""The service with one thing changed that is no setting; started by `benchmarks/serving_variants.py`.

FER_TOGETHER=1 bentoml serve serving_variant:FerClassifier
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ferops.serving import app, batcher
from ferops.serving.predictor import Question

batcher.TOGETHER = int(os.environ.get("FER_TOGETHER", batcher.TOGETHER))

if "FER_SWITCH_MS" in os.environ:
    sys.setswitchinterval(float(os.environ["FER_SWITCH_MS"]) / 1e3)

if "FER_CALLS" in os.environ:

    def with_calls(answer: Callable[[Sequence[Question]], Any], threads: int) -> batcher.Batcher:
        """A batcher with so many threads as the variable says."""
        return batcher.Batcher(answer, int(os.environ["FER_CALLS"]))

    app.Batcher = with_calls  # type: ignore[assignment,misc]

from ferops.serving.service import FerClassifier  # noqa: E402  # reads what was changed

__all__ = ["FerClassifier"]
