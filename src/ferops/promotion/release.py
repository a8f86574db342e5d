"""The release: a trained model that lies in the repository, and is served until a champion is promoted.

    >>> release = Release.load(Path("release"))  # doctest: +SKIP
    >>> release.label, release.synthetic  # doctest: +SKIP
    ('release-0a1b2c3d', False)

It is a package (docs/registry.md) with the Keras weights, the recipe, the results and a card for people
beside it; `ferops release` makes it, see `ferops.promotion.build_release`. The gate does not know it: a
first candidate of one's own has nothing to beat.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ferops import files
from ferops.promotion.champion import Champion, NoChampionError

MANIFEST_FILE = "release.json"

#: What validation found in the dataset; not in a release that was made before there was such a file.
VALIDATION_FILE = "validation.json"


class NoReleaseError(RuntimeError):
    """There is no release, or it cannot be made; says what to do."""


class Manifest(BaseModel):
    """What `release.json` holds: where the release came from, and the digests of its files.

    Attributes:
        candidate: name of the candidate that passed the gate.
        model: name of the registered model whose release it is.
        package_sha256: digest of the package that the gate judged; it answers in every bit as the release.
        trained_sha256: digest of the `model.keras` that was evaluated.
        dataset_sha256: digest of the Parquet dataset, train, validation and test.
        params_sha256: digest of the parameters file of the training.
        git_commit: the code that trained.
        mlflow_run_id: the run that trained.
        synthetic: always False; a release is of real faces.
        decided_at: when the gate passed it, UTC, ISO 8601.
        files: SHA-256 of each file beside this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    model: str
    package_sha256: str
    trained_sha256: str
    dataset_sha256: str
    params_sha256: str
    git_commit: str
    mlflow_run_id: str
    synthetic: bool
    decided_at: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Release:
    """A release folder, with those properties of a `Champion` that serving and monitoring need."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, folder: Path) -> "Release":
        """Read `release.json`; the model is checked by its own self-check when it is loaded.

        Raises:
            NoReleaseError: if the folder holds no release.
            ValueError: if the file is not one that `ferops release` wrote.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise NoReleaseError(f"{folder} holds no release: {path} is absent, `ferops release` makes one")
        try:
            return cls(folder, Manifest.model_validate(files.read_json(path)))
        except ValidationError as error:
            raise ValueError(f"{path} cannot be read, restore it with `git checkout`: {error}") from error

    @property
    def label(self) -> str:
        """What answers and log call it, `release-<first 8 of the package's digest>`."""
        return f"release-{self.package_sha256[:8]}"

    @property
    def model(self) -> str:
        """Name of the registered model."""
        return self.manifest.model

    @property
    def package_sha256(self) -> str:
        """Digest of the package that was released."""
        return self.manifest.package_sha256

    @property
    def synthetic(self) -> bool:
        """False: synthetic models are not released."""
        return self.manifest.synthetic

    def folder(self) -> Path:
        """The package: the release folder itself."""
        return self.path

    def damaged(self) -> list[str]:
        """Names of files that are absent or differ from those that were released."""
        return [
            name
            for name, digest in self.manifest.files.items()
            if not (self.path / name).is_file() or files.sha256(self.path / name) != digest
        ]


def load_release(folder: Path) -> Release | None:
    """The release, or none where the folder holds none."""
    try:
        return Release.load(folder)
    except NoReleaseError:
        return None


def served_model(registry: Path, release: Path) -> Champion | Release:
    """What `bentoml serve` serves: the champion, and the release as long as nothing was promoted.

    A champion that was promoted but is lost is an error, and not replaced by another model in silence.

    Raises:
        NoChampionError: if there is neither.
    """
    try:
        return Champion.load(registry)
    except NoChampionError:
        released = load_release(release)
        if released is None:
            raise
        return released
