"""Which model answers: the champion, else the release; or the package folder that somebody names."""

from dataclasses import dataclass
from pathlib import Path

import bentoml

from ferops import files, tracking
from ferops.environment import Environment
from ferops.models.onnx import CARD_FILE, MODEL_FILE, RECORDED_FILE, BrokenPackageError, OnnxClassifier
from ferops.models.runtimes import REFERENCE
from ferops.promotion.champion import Champion, NoChampionError
from ferops.promotion.release import load_release, served_model
from ferops.serving.runtime import open_checked


@dataclass(frozen=True)
class Source:
    """A model to serve.

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
        return f"serving {self.version}: {why[self.kind]}{faces}, computed by {self.classifier.runtime}"


def find_source(environment: Environment) -> Source:
    """What to serve: a package folder when one is given, else the champion, else the release.

    Raises:
        NoChampionError: if there is none.
        BrokenPackageError: if it is broken.
        ValueError: if the pointer or the release is no such file.
    """
    if environment.package is not None:
        return _folder(environment.package, environment)
    model = served_model(environment.registry_dir, environment.release_dir)
    if isinstance(model, Champion):
        return champion_source(model, environment)
    return _folder(model.path, environment)


def champion_source(champion: Champion, environment: Environment | None = None) -> Source:
    """The champion, loaded and checked, on the runtime of `environment` (default: the process's own).

    Raises:
        NoChampionError: if the model store has lost it.
        BrokenPackageError: if it is broken.
    """
    classifier = _checked(champion.folder(), environment or Environment())
    return Source("champion", champion.label, champion.bento_tag, classifier)


def find_challenger(shadow: str) -> Source:
    """What `FEROPS_SHADOW` names: a package folder, or the number of a version that BentoML's store has.

    It computes on one thread, for it must not be in the way of those who wait for an answer, and in fp32, as
    it was evaluated.

    Raises:
        NoChampionError: if it names neither.
        BrokenPackageError: if it is broken.
    """
    folder = Path(shadow)
    if folder.is_dir():
        return Source(
            "package", f"package-{files.sha256(folder)[:8]}", None, open_checked(folder, REFERENCE, 1)
        )
    for model in bentoml.models.list():
        label = str(model.tag.version)
        if model.tag.name == tracking.REGISTERED_MODEL and label.startswith(f"v{shadow.removeprefix('v')}-"):
            return Source("champion", label, str(model.tag), open_checked(Path(model.path), REFERENCE, 1))
    raise NoChampionError(
        f"FEROPS_SHADOW={shadow} is neither a package folder nor a version in BentoML's model store: "
        "`bentoml models list` shows those, `ferops package` makes packages/"
    )


def _folder(folder: Path, environment: Environment) -> Source:
    released = load_release(folder)
    if released is not None:
        # Its name promises the model that was released.
        if other := sorted({MODEL_FILE, CARD_FILE, RECORDED_FILE} & set(released.damaged())):
            raise BrokenPackageError(
                f"{folder} is not as it was released, these files differ: {', '.join(other)}: "
                f"`git checkout -- {folder}`"
            )
        return Source("release", released.label, None, _checked(folder, environment))
    return Source("package", f"package-{files.sha256(folder)[:8]}", None, _checked(folder, environment))


def _checked(folder: Path, environment: Environment) -> OnnxClassifier:
    return open_checked(folder, environment.runtime, environment.threads)
