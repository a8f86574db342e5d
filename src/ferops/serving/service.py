"""The Bento: `bentoml serve` answers with the champion, `bentoml build` takes it along.

The champion is fixed when a server starts: promote, then restart (or roll out) to serve the new one.
`FEROPS_PACKAGE=<folder>` serves a package folder that is no champion; the gate's trial does this.
"""

from dataclasses import dataclass
from pathlib import Path

import bentoml

from ferops import files
from ferops.models.onnx import OnnxClassifier
from ferops.promotion.champion import Champion, NoChampionError
from ferops.serving.app import app, start
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from ferops.settings import Environment

environment = Environment()


@dataclass(frozen=True)
class Source:
    """The model to serve.

    Attributes:
        version: as answers and log name it; `package-<8 digits>` for one that is no champion.
        bento_tag: none for a package folder.
    """

    version: str
    bento_tag: str | None


def source(environment: Environment) -> Source:
    """What to serve: a package folder when one is given, else the champion.

    Raises:
        bentoml.exceptions.BentoMLException: if there is none. BentoML's command line shows such an error as
            one line and exits with 1.
    """
    if environment.package is not None:
        if not environment.package.is_dir():
            raise bentoml.exceptions.BentoMLException(
                f"FEROPS_PACKAGE={environment.package} is no folder: run `dvc repro package` first"
            )
        return Source(f"package-{files.sha256(environment.package)[:8]}", None)
    try:
        champion = Champion.load(environment.registry_dir)
        champion.folder()  # here and not in a worker, which would be started again and again
    except (NoChampionError, ValueError) as error:
        raise bentoml.exceptions.BentoMLException(str(error)) from None
    return Source(champion.version, champion.bento_tag)


serving = source(environment)


@bentoml.service(
    name="fer_classifier",
    workers=environment.workers,
    traffic={"timeout": 30},
    metrics={"enabled": True, "namespace": "bentoml_service"},
)
@bentoml.asgi_app(app)
class FerClassifier:
    """Seven facial expressions: POST /predict, GET /model, POST /feedback; docs/serving.md."""

    if serving.bento_tag is not None:
        champion = bentoml.models.BentoModel(serving.bento_tag)

    def __init__(self) -> None:
        folder = Path(self.champion.path) if serving.bento_tag else environment.package
        assert folder is not None
        classifier = OnnxClassifier(folder)
        classifier.self_check()  # warms ONNX Runtime up, too
        lost = bentoml.metrics.Counter(
            "ferops_unlogged_records", "Predictions and feedback that could not be logged"
        )
        log = PredictionLog(environment.log_dir, on_failure=lost.inc)
        start(app, Predictor(classifier, serving.version, log, environment.max_pixels), environment)
