"""`params.yaml`, typed; an unknown key or a value out of range is refused.

    >>> settings = load_settings(Path("params.yaml"))  # doctest: +SKIP
    >>> settings.train.recipe  # doctest: +SKIP
    'synthetic'

Every section of `params.yaml` is one class here, and each number's meaning stands beside it. What differs
between machines is in `ferops.environment`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ferops.environment import Environment

Kind = TypeVar("Kind", bound=BaseModel)
Fraction = Annotated[float, Field(ge=0, le=1)]
Attention = Literal["feature", "patch", "batch"]
#: numpy's generators take 32 bits, and the second stage's seed is one more.
Seed = Annotated[int, Field(ge=0, lt=2**32 - 1, strict=True)]
#: Views of an image over which answers can be averaged; see `ferops.evaluation.views`.
Views = Literal["flipped", "ten_crop"]
#: What validation looks at; `validation.blocking` picks from it.
Finding = Literal[
    "schema",
    "label_set",
    "image_size",
    "image_mode",
    "class_balance",
    "blank_images",
    "redundant_copies",
    "cross_split_copies",
    "conflicting_labels",
    "wrong_labels",
    "repeated_images",
]


class SettingsError(ValueError):
    """The parameters cannot be used; the message names each offending key."""


class Section(BaseModel):
    """Base of every section: unknown keys are refused and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SyntheticSettings(Section):
    """The embedded default dataset, drawn by `ferops.data.sources.synthetic`."""

    train: int = Field(2800, ge=70, description="images in the train split")
    validation: int = Field(700, ge=35, description="images in the validation split")
    test: int = Field(1400, ge=35, description="images in the test split")
    noise: Fraction = Field(0.5, description="how hard: 0 clean faces, 1 hardly readable ones")


class CollectedSettings(Section):
    """Labelled traffic beside the main source; `ferops data collect` writes `path` and `sha256`."""

    path: Path = Field(Path("data/collected"), description="folder of batches, under DVC")
    sha256: str = Field(description="of the folder: which version of it belongs to these parameters")
    validation: Fraction = Field(0.1, description="share of its images, chosen by their pixels")
    test: Fraction = Field(0.2, description="likewise; an image never changes its split")

    @model_validator(mode="after")
    def _leaves_some_to_train(self) -> "CollectedSettings":
        if self.validation + self.test > 1:
            raise ValueError(f"validation {self.validation} and test {self.test} are more than all of it")
        return self


class DataSettings(Section):
    """Where images come from and how they become the Parquet dataset."""

    source: Literal["synthetic", "fer2013_csv", "fer2013_images", "image_tree"] = "synthetic"
    path: Path = Field(
        Path("src/ferops/data/sources/synthetic.py"),
        description="file or folder of the source; the synthetic generator is its own source",
    )
    seed: Seed = Field(
        0,
        description="of the synthetic faces and of the validation cut: not training's, whose other seeds "
        "must not validate on what a backbone or teacher has learned",
    )
    synthetic: SyntheticSettings = SyntheticSettings()
    collected: CollectedSettings | None = Field(
        None, description="labelled traffic that is learnt and measured too; none without"
    )
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.1, description="share of train cut for validation when the source has none of its own"
    )
    on_broken_image: Literal["error", "exclude"] = Field(
        "error", description="refuse a dataset with an unreadable image, or leave it out and count it"
    )
    drop_test_copies_from_train: bool = Field(
        True, description="an image that occurs in the test split is dropped from train"
    )
    drop_blank_from_train: bool = Field(True, description="an image of one value teaches nothing")
    rows_per_shard: int = Field(10_000, ge=100)


class ValidationSettings(Section):
    """Thresholds of the Great Expectations suite. A blocking expectation stops the pipeline."""

    min_rows_per_class: int = Field(20, ge=1, description="per split")
    max_class_ratio: float = Field(30.0, ge=1, description="largest class over smallest, in train")
    image_side: int = Field(48, ge=16, description="width and height every image must have, pixels")
    image_modes: tuple[str, ...] = Field(("L",), min_length=1, description="Pillow's modes an image may have")
    max_blank_fraction: Fraction = 0.001
    max_redundant_fraction: Fraction = Field(0.08, description="copies beyond the first of a group")
    max_cross_split_copies: Fraction = Field(
        0.0, description="share of test rows with a copy in train or validation, as used in training"
    )
    max_conflicting_groups: Fraction = Field(
        0.005, description="groups of copies with different labels, over all rows"
    )
    min_label_agreement: Fraction = Field(
        0.2, description="of the main source's labels with a plain classifier, mean recall; guessing: 1/7"
    )
    max_wrong_labels: Fraction = Field(0.15, description="of a source or batch: lower bound of the share")
    max_wrong_labels_of_emotion: Fraction = Field(0.3, description="likewise, of the rows of one label")
    max_repeated_image: Fraction = Field(
        0.05, description="near copies of one image in a source or batch, beyond the first"
    )
    blocking: tuple[Finding, ...] = Field(
        (
            "schema",
            "label_set",
            "image_size",
            "image_mode",
            "class_balance",
            "cross_split_copies",
            "wrong_labels",
            "repeated_images",
        ),
        description="findings that stop the pipeline; the others are reported as warnings",
    )


class AugmentationSettings(Section):
    """Random changes to a training image, applied to the 48x48 pixels before the model's resize."""

    flip: bool = Field(True, description="horizontal mirror, probability 0.5")
    contrast: Fraction = Field(0.0, description="factor drawn from 1 ± this, as Keras RandomContrast")
    brightness: Fraction = Field(0.0, description="added share of 255, drawn from ± this")
    shift: Fraction = Field(0.0, description="share of the side, each axis, drawn from ± this")
    rotation: float = Field(0.0, ge=0, le=180, description="degrees, drawn from ± this")
    zoom: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="scale drawn from 1 ± this")
    erasing: Fraction = Field(0.0, description="probability of one erased rectangle (2 to 20 % of the area)")
    mixup: float = Field(0.0, ge=0, description="alpha of the Beta distribution; 0 is off")


#: The schedule that a setting of `StageSettings` means something to.
SCHEDULE_OF = {
    "warmup_epochs": "cosine",
    "decay_rate": "inverse_time",
    "decay_steps": "inverse_time",
    "plateau_factor": "plateau",
    "plateau_patience": "plateau",
}


class StageSettings(Section):
    """One stage of training: an optimiser, a schedule, and when to stop."""

    epochs: int = Field(ge=0, description="0 skips the stage")
    learning_rate: float = Field(gt=0)
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine", "inverse_time", "plateau"] = "constant"
    warmup_epochs: float = Field(0.0, ge=0, description="linear rise before cosine")
    decay_rate: float = Field(1.0, ge=0, description="inverse_time: lr / (1 + rate * step / decay_steps)")
    decay_steps: int = Field(1000, ge=1)
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    plateau_patience: int = Field(3, ge=1, description="epochs without better validation accuracy")
    early_stop_patience: int | None = Field(None, ge=1)
    patience_gain: Fraction = Field(
        0.0, description="by how much validation accuracy must rise to count as better, for both patiences"
    )
    class_weights: Fraction | None = Field(None, description="of this stage; none: the recipe's")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    spatial_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    unfreeze_layers: Annotated[int, Field(ge=0, strict=True)] | Literal["none", "all"] = Field(
        "none", description="how many of the backbone's last layers train"
    )
    train_batch_norm: bool = Field(False, description="whether the backbone's batch norms train too")

    @model_validator(mode="after")
    def _reaches_its_rate(self) -> "StageSettings":
        for name, schedule in SCHEDULE_OF.items():
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and self.schedule != schedule:
                raise ValueError(f"{name} is for schedule: {schedule}, not {self.schedule}")
        if self.epochs and self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} is longer than the stage ({self.epochs})")
        return self


class Recipe(Section):
    """A named way to train PAtt-Lite: the model's choices and its two stages."""

    description: str
    image_size: int = Field(
        224, ge=80, le=512, description="side the model resizes to inside, pixels; below 80 no patch is left"
    )
    backbone: str = Field("imagenet", description="imagenet, none, or the path of a weights file")
    batch_size: int = Field(8, ge=1, description="images of one update of the weights")
    accumulation_steps: int = Field(
        1, ge=1, description="parts in which a batch is computed, where it does not fit the device's memory"
    )
    clip_norm: float | None = Field(3.0, gt=0, description="global gradient norm")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    teacher: str | None = Field(
        None, description="path of a trained model.keras whose answers soften the targets"
    )
    teacher_share: Fraction = Field(0.5, description="share of the teacher's answer in a target")
    start_image_size: int | None = Field(
        None,
        ge=80,
        description="side at the start, growing to image_size in steps of 16 over fine_tune; none: no growth",
    )
    class_weights: Fraction = Field(
        1.0, description="weight classes by inverse frequency to this power: 0 none, 1 balanced"
    )
    batch_norm_momentum: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.99, description="of the moving statistics; Keras' 0.99 needs some thousand steps to settle"
    )
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="of averaged weights, which are validated and kept; none: no averaging"
    )
    precision: Literal["auto", "float32", "mixed_bfloat16"] = Field(
        "auto", description="auto: mixed_bfloat16 on a GPU, else float32"
    )
    augmentation: AugmentationSettings = AugmentationSettings()
    frozen: StageSettings = StageSettings(epochs=0, learning_rate=1e-3)
    fine_tune: StageSettings = StageSettings(epochs=0, learning_rate=1e-5)

    @model_validator(mode="after")
    def _frozen_means_frozen(self) -> "Recipe":
        if self.frozen.unfreeze_layers != "none" or self.frozen.train_batch_norm:
            raise ValueError("the frozen stage trains no backbone layer: unfreeze in fine_tune")
        if self.start_image_size is not None and (
            self.start_image_size > self.image_size or self.start_image_size % 16
        ):
            raise ValueError(
                f"start_image_size {self.start_image_size} must be a multiple of 16, "
                f"and not above image_size {self.image_size}"
            )
        if self.start_image_size not in (None, self.image_size) and self.fine_tune.epochs == 0:
            raise ValueError(
                f"images grow from {self.start_image_size} to {self.image_size} over fine_tune, which has 0 "
                "epochs: give image_size alone"
            )
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into {self.accumulation_steps} equal parts "
                "(accumulation_steps)"
            )
        if self.batch_size // self.accumulation_steps < 2:
            raise ValueError(
                f"batch_size {self.batch_size} in {self.accumulation_steps} part(s) leaves one image to a "
                "batch norm, which makes it zero, so that nothing is learned: two are the least"
            )
        if self.teacher is not None and self.teacher_share == 0:
            raise ValueError("teacher_share is 0, so that the teacher teaches nothing: leave teacher out")
        if self.frozen.epochs + self.fine_tune.epochs == 0:
            raise ValueError("both stages have 0 epochs: nothing would be trained")
        return self


class TrainSettings(Section):
    """Which recipe trains the PAtt-Lite candidate."""

    recipe: str = "synthetic"
    attention: Attention = "feature"
    seed: Seed = 0


class VitSettings(Section):
    """The ViT baseline, evaluated as it is."""

    checkpoint: str | None = Field(
        None, description="hub id or folder of a Hugging Face ViTForImageClassification; none skips it"
    )
    revision: str | None = Field(None, description="hub revision (commit) to pin; none for folders")
    trained_on: tuple[str, ...] | None = Field(
        None,
        description="names of the datasets it was trained on, where its own files do not tell: "
        "none means unknown, an empty list means none",
    )
    batch_size: int = Field(16, ge=1)


class EvaluationSettings(Section):
    """How a candidate is measured."""

    batch_size: int = Field(32, ge=2, description="images predicted together; alone, none could show a leak")
    bootstrap_samples: int = Field(2000, ge=100)
    confidence_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    calibration_bins: int = Field(15, ge=2, description="equal-width bins, Guo et al. 2017")
    invariance_images: int = Field(
        512, ge=8, description="test rows drawn for the batch-invariance rule, stratified by class"
    )
    views: tuple[Views, ...] = Field(
        ("flipped", "ten_crop"),
        description="averages over views to report beside the single prediction; the gate never reads them",
    )


class VariantSettings(Section):
    """The rules a reduced precision of a model must pass to answer in its place."""

    max_accuracy_loss: Fraction = Field(0.003, description="accuracy of fp32 minus its own, test split")
    max_calibration_loss: Fraction = Field(0.003, description="its calibration error minus that of fp32")
    min_agreement: Fraction = Field(0.97, description="share of labels that are those of fp32")
    min_speedup: float = Field(1.1, gt=0, description="images/s over fp32, eight images a call")


class GateSettings(Section):
    """The rules a candidate must pass to become champion."""

    metric: Literal["accuracy", "macro_f1", "balanced_accuracy"] = "macro_f1"
    minimum: Fraction = Field(0.3, description="floor of the metric, champion or not")
    min_improvement: float = Field(
        0.0, description="lower bound of the paired interval of candidate minus champion must exceed it"
    )
    max_loss_by_source: Fraction = Field(
        0.02, description="of the metric against the champion, on the test rows of any one source"
    )
    min_recall: Fraction = Field(0.1, description="floor of every class")
    max_calibration_error: Fraction = Field(0.2, description="expected calibration error")
    max_latency_ms: float = Field(100.0, gt=0, description="median, one image, packaged model, this machine")
    max_size_mb: float = Field(20.0, gt=0, description="packaged model on disk, 10^6 bytes")
    invariance_tolerance: float = Field(1e-4, gt=0, description="largest change of a probability")
    max_contaminated: Fraction = Field(
        0.0, description="share of evaluated test rows the candidate is known to have trained on"
    )
    unknown_training_data: Literal["refuse", "allow"] = "refuse"
    service_tolerance: float = Field(1e-4, gt=0, description="served against offline probabilities")
    service_images: int = Field(16, ge=1, description="test images sent to the service on trial")
    variants: VariantSettings = VariantSettings()


class Settings(Section):
    """All of `params.yaml`."""

    data: DataSettings = DataSettings()
    validation: ValidationSettings = ValidationSettings()
    train: TrainSettings = TrainSettings()
    recipes: Mapping[str, Recipe]
    vit: VitSettings = VitSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _recipe_exists(self) -> "Settings":
        if self.train.recipe not in self.recipes:
            raise ValueError(
                f"train.recipe {self.train.recipe!r} is not among recipes: {', '.join(self.recipes)}"
            )
        return self

    @property
    def recipe(self) -> Recipe:
        """The recipe that `train.recipe` names."""
        return self.recipes[self.train.recipe]


def load_settings(path: Path | None = None) -> Settings:
    """Read and check the parameters file (default: `FEROPS_PARAMS`, else `params.yaml`).

    Raises:
        SettingsError: if the file is absent, not YAML, or any key or value is wrong; names them all.
    """
    return read_yaml(path or Environment().params, Settings, SettingsError, "FEROPS_PARAMS")


def read_yaml(path: Path, kind: type[Kind], refusal: type[ValueError], variable: str) -> Kind:
    """Read a YAML file into a typed section.

    Args:
        path: the file.
        kind: what it must hold.
        refusal: the error to raise, with every offending key in its message.
        variable: the environment variable that names the file or its folder, for the advice.
    """
    try:
        raw: Any = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise refusal(f"{path} not found: run from the repository root, or set {variable}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise refusal(f"{path} is not valid YAML: {error}") from error
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise refusal(f"{path} has {error.error_count()} error(s):\n{problems(error)}") from error


def problems(error: ValidationError) -> str:
    """Every offending key with what is wrong, a line each."""
    return "\n".join(
        f"  {'.'.join(str(part) for part in item['loc']) or '(top level)'}: {item['msg']}"
        for item in error.errors()
    )
