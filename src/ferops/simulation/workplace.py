"""A private copy of the project for a simulation, with git, DVC, MLflow, BentoML's store and log of its own.

    >>> place = Workplace.copy_of(Path.cwd(), Path("/tmp/place"), day_s=180)  # doctest: +SKIP
    >>> with place.entered():  # doctest: +SKIP
    ...     place.first_champion(print)

Nothing of the checkout is written, so that a simulation can be killed at any moment: its folder is all that
it leaves. What the checkout's DVC cache holds of the model that was trained there is copied, and spares the
first training.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ferops import files, tracking
from ferops.data.versioned import edited, require_dvc
from ferops.environment import Environment
from ferops.models.classifier import TRAINED_ON_FILE
from ferops.monitoring.monitor import POLICY_FILE
from ferops.pipeline import StageOutcome, reproduce, stages
from ferops.serving.trial import running_service
from ferops.settings import Settings, load_settings

#: Settings of this machine that must not reach into a simulation.
FOREIGN = ("BENTOML_", "FEROPS_", "GIT_", "MLFLOW_", "PREFECT_")

#: Reports on this machine's champion; in the workplace nobody is champion yet.
JUDGEMENTS = ("gate.json", "gate.html", "promotion.json", "variants/variants.json")

#: The recipe that learns from labelled traffic; it goes on from the champion's backbone.
RECIPE = "simulation"
CHAMPION_WEIGHTS = Path("../champion/model.keras")

#: Keys of the policy that are hours on a clock; whatever they begin with.
HOURS = "hours"


class WorkplaceError(RuntimeError):
    """There is nothing to simulate here, or no place to do it in; the message says what to do."""


@dataclass(frozen=True)
class Workplace:
    """Where everything of one simulation lies.

    Attributes:
        root: the folder.
        project: the copy of the checkout in it.
        day_s: seconds that a day of the monitor's policy lasts.
    """

    root: Path
    project: Path
    day_s: float

    @classmethod
    def copy_of(cls, checkout: Path, root: Path, day_s: float) -> "Workplace":
        """Copy what git has of the checkout, uncommitted changes included, into a repository of its own.

        Args:
            checkout: the repository; the working directory.
            root: a new or empty folder.
            day_s: see `Workplace`.

        Raises:
            WorkplaceError: if the checkout is no repository of this project, or the folder holds something.
        """
        if not (checkout / "dvc.yaml").exists():
            raise WorkplaceError(f"{checkout} has no dvc.yaml: run this in the repository's root")
        require_dvc(checkout)
        if root.exists() and any(root.iterdir()):
            raise WorkplaceError(f"{root} is not empty: a simulation needs a folder of its own")
        place = cls(root.resolve(), root.resolve() / "project", day_s)
        try:
            names = tracking.git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        except (OSError, subprocess.SubprocessError) as error:
            raise WorkplaceError(f"git does not tell the files of {checkout}: {error}") from error
        for name in filter(None, names.split("\0")):
            if (checkout / name).is_file():
                (place.project / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(checkout / name, place.project / name)
        cache = _dvc(checkout, "cache", "dir").strip()
        with place.entered():
            place._prepare(Path(cache))
        return place

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Work there: this process's folder and environment are the workplace's within the block.

        One workplace a process: BentoML reads where its store is once, when it is imported.
        """
        before, here = dict(os.environ), Path.cwd()
        kept = {name: value for name, value in before.items() if not name.startswith(FOREIGN)}
        own = {"BENTOML_HOME": str(self.root / "bentoml"), "PYTHONPATH": str(self.project / "src")}
        try:
            _replace_environment({**kept, **own})
            os.chdir(self.project)
            yield
        finally:
            os.chdir(here)
            _replace_environment(before)

    def first_champion(self, on_stage: Callable[[StageOutcome], object]) -> None:
        """Run the pipeline up to a champion; stages that the checkout ran are restored, not repeated.

        Raises:
            WorkplaceError: if the gate refuses the first candidate.
            ferops.pipeline.StageFailedError: if a stage fails.
        """
        self.run_pipeline(on_stage)
        decision = files.read_json(self.project / "reports/gate.json")
        if decision["decision"] != "promote":
            raise WorkplaceError(f"the gate refused the first candidate: {decision['reason']}")
        for name in ("model.keras", TRAINED_ON_FILE):
            trained = self.project / "models/patt_lite" / name
            weights = self.project / CHAMPION_WEIGHTS.with_name(name)
            weights.parent.mkdir(exist_ok=True)
            if trained.exists():  # there is no list where not all images are known
                shutil.copy(trained, weights)
        self.commit("The first champion")

    def run_pipeline(self, on_stage: Callable[[StageOutcome], object]) -> None:
        """Bring every stage of dvc.yaml up to date, as the flow `train` does; their output goes to a file.

        Raises:
            ferops.pipeline.StageFailedError: with the last lines of the stage that failed.
        """
        with (self.root / "pipeline.log").open("a") as log:
            for stage in stages(self.project):
                on_stage(reproduce(stage, self.project, lambda line: print(line, file=log, flush=True)))

    @contextlib.contextmanager
    def service(self) -> Iterator[str]:
        """The real service on the registry of the workplace, keeping faces; its address.

        Raises:
            ferops.serving.trial.TrialError: if it does not start.
        """
        folder, here = self.root / "service", Environment()
        folder.mkdir(exist_ok=True)
        environment = {
            "FEROPS_KEEP_IMAGES": "true",
            "FEROPS_LOG_DIR": str(self.project / here.log_dir),
            "FEROPS_REGISTRY_DIR": str(self.project / here.registry_dir),
            "FEROPS_RELEASE_DIR": str(self.project / here.release_dir),
        }
        with running_service(folder, environment) as url:
            yield url

    def learn_from_traffic(self) -> None:
        """Choose the recipe that goes on from the champion's backbone, as a person would in params.yaml."""

        def choose(content: Any) -> None:
            content["train"]["recipe"] = RECIPE

        self._edit_params(choose)

    def commit(self, message: str) -> str:
        """Commit parameters, lock and reports; the commit."""
        tracking.git("add", "-A")
        tracking.git("-c", "user.name=ferops", "-c", "user.email=ferops@localhost", "commit", "-qm", message)
        return tracking.git("rev-parse", "HEAD").strip()

    def _prepare(self, cache: Path) -> None:
        tracking.git("init", "-q")
        for name in JUDGEMENTS:
            (self.project / "reports" / name).unlink(missing_ok=True)
        self._edit_params(_synthetic)
        policy = self.project / Environment().monitoring_dir / POLICY_FILE
        files.write_text(policy, scaled(policy.read_text(), self.day_s / 86_400))
        self.commit("The project as it was copied")
        if cache.is_dir() and (self.project / "dvc.lock").exists():
            _dvc(self.project, "remote", "add", "--local", "checkout", str(cache))
            with contextlib.suppress(WorkplaceError):  # what is not there is computed
                _dvc(self.project, "pull", "--quiet", "--allow-missing", "--remote", "checkout")

    def _edit_params(self, change: Callable[[Any], None]) -> None:
        params = self.project / "params.yaml"
        files.write_text(params, edited(params, change))

    @property
    def logs(self) -> str:
        """Where output of pipeline and service is."""
        return f"{self.root / 'pipeline.log'}, {self.root / 'service/serve.log'}"

    @property
    def settings(self) -> Settings:
        """What params.yaml of the copy says."""
        return load_settings(self.project / "params.yaml")


def scaled(policy: str, factor: float) -> str:
    """A policy whose hours are shorter by a factor: windows, their distance, and how long it is silent.

    Tests, thresholds and numbers of predictions stay, and so do days, after which the log is deleted.

    >>> print(scaled("window: {hours: 24, sample: 2000}", 1 / 480))
    window:
      hours: 0.05
      sample: 2000
    <BLANKLINE>
    """

    def shorter(content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {
            key: value * factor if str(key).endswith(HOURS) else shorter(value)
            for key, value in content.items()
        }

    return yaml.safe_dump(shorter(yaml.safe_load(policy)), sort_keys=False)


def _synthetic(content: Any) -> None:
    """Synthetic faces, of which there are always new ones; and the recipe that learns from traffic."""
    data, recipes = content["data"], content["recipes"]
    if data["source"] != "synthetic":
        data.update(source="synthetic", path="src/ferops/data/sources/synthetic.py", collected=None)
        content["train"]["recipe"] = "synthetic"
    recipe = {**recipes[content["train"]["recipe"]]}
    recipes[RECIPE] = {
        **recipe,
        "description": "the recipe of the first champion once more, from its backbone",
        "backbone": CHAMPION_WEIGHTS.as_posix(),
    }


def _replace_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise WorkplaceError(f"`dvc {' '.join(arguments)}` in {folder}: {done.stderr.strip()}")
    return done.stdout
