"""The champion pointer: one small file that says which model is served; service and monitor read only it.

>>> champion = Champion.load(Path("registry"))  # doctest: +SKIP
>>> champion.version, champion.bento_tag  # doctest: +SKIP
('3', 'fer-classifier:v3-0a1b2c3d')
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ferops import files

POINTER_FILE = "champion.json"

#: Earlier champions that the pointer remembers: how many rollbacks are possible.
REMEMBERED = 20


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
        earlier: the champions before it, the last one first; a rollback goes back to that one.
        withdrawn: digests of packages that were rolled back, which the pipeline does not promote again.
    """

    model: str
    version: str
    bento_tag: str
    package_sha256: str
    mlflow_run_id: str
    candidate: str
    promoted_at: str
    synthetic: bool
    earlier: tuple["Champion", ...] = ()
    withdrawn: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What answers and log call it, `v<version>-<first 8 of sha>`: names one model, whatever registry."""
        return self.bento_tag.split(":")[1]

    def after(self, old: "Champion | None") -> "Champion":
        """The same as successor of `old`, which it remembers; whoever is promoted is no longer withdrawn."""
        if old is None:
            return self
        earlier = (replace(old, earlier=(), withdrawn=()), *old.earlier)[:REMEMBERED]
        withdrawn = tuple(digest for digest in old.withdrawn if digest != self.package_sha256)
        return replace(self, earlier=earlier, withdrawn=withdrawn)

    def before(self) -> "Champion | None":
        """The champion that this one displaced, with this one withdrawn; none if there was none."""
        if not self.earlier:
            return None
        withdrawn = dict.fromkeys((self.package_sha256, *self.withdrawn))
        last, *rest = self.earlier
        withdrawn.pop(last.package_sha256, None)
        return replace(last, earlier=tuple(rest), withdrawn=tuple(withdrawn)[:REMEMBERED])

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
            return cls._read(files.read_json(path))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no champion pointer ({error}): run `ferops promote`") from error

    @classmethod
    def _read(cls, content: Mapping[str, Any]) -> "Champion":
        earlier = tuple(map(cls._read, content.get("earlier", ())))
        champion = cls(**{**content, "earlier": earlier, "withdrawn": tuple(content.get("withdrawn", ()))})
        if champion.bento_tag.count(":") != 1:
            raise TypeError(f"bento_tag {champion.bento_tag!r} is no <model>:<version>")
        return champion

    def folder(self) -> Path:
        """The champion's package in BentoML's model store.

        Raises:
            NoChampionError: if the store does not have it.
        """
        import bentoml
        from bentoml._internal.models import ModelStore  # it is public nowhere

        with suppress(bentoml.exceptions.BentoMLException):
            return Path(bentoml.models.get(self.bento_tag).path)
        # A Bento that brought a model looks in its own store alone, but `ferops promote` fills the machine's.
        home = Path(os.environ.get("BENTOML_HOME") or "~/bentoml").expanduser()
        with suppress(bentoml.exceptions.BentoMLException):
            return Path(ModelStore(home / "models").get(self.bento_tag).path)
        raise NoChampionError(
            f"BentoML's model store has no intact {self.bento_tag}, which the champion pointer names: "
            "run `ferops promote` to put it back"
        )


def load_champion(registry: Path) -> Champion | None:
    """The champion, or none when nothing was promoted yet."""
    try:
        return Champion.load(registry)
    except NoChampionError:
        return None
