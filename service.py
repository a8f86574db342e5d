"""Where `bentoml serve` and `bentoml build` find the service; see src/ferops/serving/service.py."""

import os
import sys
from contextlib import suppress
from pathlib import Path

# No usage reports. BentoML's command line has asked, and kept the answer, before it imports this file.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
with suppress(ImportError, AttributeError):
    from bentoml._internal.utils.analytics.usage_stats import do_not_track

    do_not_track.cache_clear()

# A built Bento carries the package's source beside this file and has it not installed.
sys.path.insert(0, str(Path(__file__).parent / "src"))

from ferops.serving.service import FerClassifier

__all__ = ["FerClassifier"]
