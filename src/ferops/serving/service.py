"""The Bento: `bentoml serve` answers with the champion, `bentoml build` takes it along.

The champion is fixed when a server starts: promote, then restart (or roll out) to serve the new one.
`FEROPS_PACKAGE=<folder>` serves a package folder that is no champion; the gate's trial does this.
"""

from dataclasses import dataclass
from pathlib import Path

import bentoml
from bentoml.models import BentoModel

from ferops import files
from ferops.models.onnx import BrokenPackageError, OnnxClassifier
from ferops.promotion.champion import Champion, NoChampionError
from ferops.serving.app import app, start
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from ferops.settings import Environment


@dataclass(frozen=True)
class Source:
    """The model to serve.

    Attributes:
        version: as answers and log name it; `package-<8 digits>` for one that is no champion.
        bento_tag: none for a package folder.
        classifier: loaded, and checked against its recorded answers, which also warms it up.
    """

    version: str
    bento_tag: str | None
    classifier: OnnxClassifier


def find_source(environment: Environment) -> Source:
    """What to serve: a package folder when one is given, else the champion.

    Raises:
        bentoml.exceptions.BentoMLException: if there is none, or it is broken. BentoML's command line shows
            such an error as one line and exits with 1.
    """
    try:
        if environment.package is not None:
            return Source(
                f"package-{files.sha256(environment.package)[:8]}", None, _checked(environment.package)
            )
        champion = Champion.load(environment.registry_dir)
        return Source(champion.label, champion.bento_tag, _checked(champion.folder()))
    except (NoChampionError, BrokenPackageError, OSError, ValueError) as error:
        raise bentoml.exceptions.BentoMLException(str(error)) from None


def _checked(folder: Path) -> OnnxClassifier:
    classifier = OnnxClassifier(folder)
    classifier.self_check()
    return classifier


environment = Environment()

# At import, so that the first process fails, and not each worker that it would start again and again.
source = find_source(environment)


@bentoml.service(name="fer_classifier", workers=environment.workers, traffic={"timeout": 30})
@bentoml.asgi_app(app)
class FerClassifier:
    """Seven facial expressions: POST /predict, GET /model, POST /feedback; see docs/serving.md."""

    if source.bento_tag is not None:
        champion = BentoModel(source.bento_tag)  # so that `bentoml build` takes it along

    def __init__(self) -> None:
        lost = bentoml.metrics.Counter(
            "ferops_unlogged_records", "Predictions and feedback that could not be logged"
        )
        log = PredictionLog(environment.log_dir, on_failure=lost.inc)
        start(app, Predictor(source.classifier, source.version, log, environment.max_pixels), environment)
