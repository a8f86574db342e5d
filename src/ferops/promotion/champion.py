"""The champion pointer: one small file that says which model is served; service and monitor read only it.

>>> champion = Champion.load(Path("registry"))  # doctest: +SKIP
>>> champion.version, champion.bento_tag  # doctest: +SKIP
('3', 'fer-classifier:v3-0a1b2c3d')
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from ferops import files

POINTER_FILE = "champion.json"


class NoChampionError(RuntimeError):
    """There is no champion, or what the pointer names is gone; one sentence that says what to run."""


@dataclass(frozen=True)
class Champion:
    """What `champion.json` holds.

    Attributes:
        model: name in both registries.
        version: MLflow's version of it.
        bento_tag: where BentoML's model store keeps the package, `<model>:v<version>-<first 8 of sha>`.
        package_sha256: digest of the package folder (`files.sha256`); the model's identity.
        mlflow_run_id: the run that the version came from.
        candidate: name of the candidate that won.
        promoted_at: UTC, ISO 8601.
        synthetic: True when trained on the synthetic faces.
    """

    model: str
    version: str
    bento_tag: str
    package_sha256: str
    mlflow_run_id: str
    candidate: str
    promoted_at: str
    synthetic: bool

    @property
    def label(self) -> str:
        """What answers and log call it, `v<version>-<first 8 of sha>`: names one model, whatever registry."""
        return self.bento_tag.split(":")[1]

    def save(self, registry: Path) -> None:
        """Write the pointer, atomically: a reader sees the old champion or the new one."""
        files.write_json(registry / POINTER_FILE, asdict(self))

    @classmethod
    def load(cls, registry: Path) -> "Champion":
        """Read the pointer.

        Raises:
            NoChampionError: if there is none yet.
            ValueError: if the file is not one that `save` wrote.
        """
        path = registry / POINTER_FILE
        if not path.exists():
            raise NoChampionError(
                f"no champion yet ({path} is absent): run `make run` or `dvc repro`; if the gate "
                "refused every candidate, reports/gate.html says why; if it did not, `ferops promote` helps"
            )
        try:
            return cls(**files.read_json(path))
        except TypeError as error:
            raise ValueError(f"{path} is no champion pointer ({error}): run `ferops promote`") from error

    def folder(self) -> Path:
        """The champion's package in BentoML's model store.

        Raises:
            NoChampionError: if the store does not have it.
        """
        import bentoml

        try:
            return Path(bentoml.models.get(self.bento_tag).path)
        except bentoml.exceptions.BentoMLException:
            raise NoChampionError(
                f"BentoML's model store has no intact {self.bento_tag}, which the champion pointer names: "
                "run `ferops promote` to put it back"
            ) from None


def load_champion(registry: Path) -> Champion | None:
    """The champion, or none when nothing was promoted yet."""
    try:
        return Champion.load(registry)
    except NoChampionError:
        return None
