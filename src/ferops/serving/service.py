"""The Bento: `bentoml serve` answers with the champion, `bentoml build` takes it along.

Until something is promoted, the release answers: the trained model that lies in the repository.
What is served is fixed when a server starts: promote, then restart (or roll out) to serve the new champion.
`FEROPS_PACKAGE=<folder>` serves a package folder that is no champion; the gate's trial does this.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import bentoml
from bentoml.models import BentoModel

from ferops import files
from ferops.models.onnx import BrokenPackageError, OnnxClassifier
from ferops.promotion.champion import Champion, NoChampionError
from ferops.promotion.release import load_release, served_model
from ferops.serving.app import app, start
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from ferops.settings import Environment


@dataclass(frozen=True)
class Source:
    """The model to serve.

    Attributes:
        kind: `champion`, `release` or `package`.
        version: as answers and log name it, such as `v3-<8 digits>`, `release-<8 digits>` or
            `package-<8 digits>`.
        bento_tag: of a champion; a release and a package are folders.
        classifier: loaded, and checked against its recorded answers, which also warms it up.
    """

    kind: str
    version: str
    bento_tag: str | None
    classifier: OnnxClassifier

    def sentence(self) -> str:
        """For the log of a server that starts."""
        faces = ", trained on synthetic faces" if self.classifier.card.synthetic else ""
        why = {
            "champion": "the champion",
            "release": "the released model; a champion takes its place once one is promoted",
            "package": "a package folder, as FEROPS_PACKAGE asks",
        }
        return f"serving {self.version}: {why[self.kind]}{faces}"


def find_source(environment: Environment) -> Source:
    """What to serve: a package folder when one is given, else the champion, else the release.

    Raises:
        bentoml.exceptions.BentoMLException: if there is none, or it is broken. BentoML's command line shows
            such an error as one line and exits with 1.
    """
    try:
        if environment.package is not None:
            return _folder(environment.package)
        model = served_model(environment.registry_dir, environment.release_dir)
        if not isinstance(model, Champion):
            return _folder(model.path)
        return Source("champion", model.label, model.bento_tag, _checked(model.folder()))
    except (NoChampionError, BrokenPackageError, OSError, ValueError) as error:
        raise bentoml.exceptions.BentoMLException(str(error)) from None


def _folder(folder: Path) -> Source:
    released = load_release(folder)
    if released is not None:
        return Source("release", released.label, None, _checked(folder))
    return Source("package", f"package-{files.sha256(folder)[:8]}", None, _checked(folder))


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
        predictor = Predictor(source.classifier, source.version, log, environment.max_pixels)
        start(app, predictor, environment, source.kind)
        if bentoml.server_context.worker_index in (None, 1):  # once, not by each worker
            logging.getLogger("bentoml.ferops").info(source.sentence())
