"""Where `bentoml serve` and `bentoml build` find the service; see src/ferops/serving/service.py."""

import os
import sys
from pathlib import Path

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # usage reports; before BentoML looks

# A built Bento carries the package's source beside this file and has it not installed.
sys.path.insert(0, str(Path(__file__).parent / "src"))

from ferops.serving.service import FerClassifier

__all__ = ["FerClassifier"]
