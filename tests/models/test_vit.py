"""The ViT baseline answers as transformers' own model does, with its labels mapped by name."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ferops.emotions import EMOTIONS, permutation
from ferops.models.classifier import Card

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIDE = 32
SHUFFLED = ("sad", "disgust", "angry", "neutral", "fear", "surprise", "happy")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def vit() -> ModuleType:
    from ferops.models import vit

    return vit


def write_checkpoint(
    folder: Path, labels: tuple[str, ...] = SHUFFLED, processor: dict[str, Any] | None = None, **config: Any
) -> Path:
    """A small random ViTForImageClassification as Hugging Face saves it, weights large enough to matter."""
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": SIDE,
        "patch_size": 8,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.3,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**{**settings, **config}))
    model.save_pretrained(folder)
    if processor is not None:
        raw = {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": SIDE, "width": SIDE},
            **processor,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(raw))
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def transformers_probabilities(folder: Path, images: np.ndarray) -> np.ndarray:
    from PIL import Image

    model = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        logits = model(**processor([Image.fromarray(i) for i in images], return_tensors="pt")).logits
    return logits.softmax(-1).numpy()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2}
PER_CHANNEL = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 2}


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        pytest.param({}, HALF, id="as_named_in_the_seed"),
        pytest.param({"layer_norm_eps": 0.1}, HALF, id="epsilon_of_the_checkpoint"),
        pytest.param({"hidden_act": "gelu_new"}, HALF, id="approximate_gelu"),
        pytest.param({"hidden_act": "relu"}, PER_CHANNEL, id="relu_and_mean_per_channel"),
        pytest.param({}, {**HALF, "do_normalize": False, "rescale_factor": 1 / 127.5}, id="own_rescaling"),
    ],
)
def test_probabilities_equal_those_of_transformers(
    vit: ModuleType, tmp_path: Path, images: np.ndarray, config: dict[str, Any], processor: dict[str, Any]
) -> None:
    folder = write_checkpoint(tmp_path / "vit", processor=processor, **config)

    ours = vit.load(str(folder)).predict(images, batch_size=2)

    theirs = transformers_probabilities(folder, images)[:, permutation(SHUFFLED)]
    assert theirs.std() > 0.01, "the comparison would not notice a difference"
    np.testing.assert_allclose(ours.probabilities, theirs, atol=TOLERANCE)
    assert ours.probabilities.dtype == np.float32
    assert ours.embedding is None


def test_without_a_preprocessor_file_the_documented_values_apply(
    vit: ModuleType, tmp_path: Path, images: np.ndarray
) -> None:
    folder = write_checkpoint(tmp_path / "vit")
    bare = vit.load(str(folder)).predict(images).probabilities
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**HALF, "image_processor_type": "ViTImageProcessor", "size": SIDE})
    )
    theirs = transformers_probabilities(folder, images)[:, permutation(SHUFFLED)]
    np.testing.assert_allclose(bare, theirs, atol=TOLERANCE)


def test_labels_are_mapped_by_name_and_not_by_position(
    vit: ModuleType, tmp_path: Path, images: np.ndarray
) -> None:
    first = write_checkpoint(tmp_path / "a", labels=SHUFFLED)
    renamed = ("Sadness", "disgusted", "anger", "Neutral", "fearful", "surprised", "happiness")
    second = write_checkpoint(tmp_path / "b", labels=renamed)
    swapped = write_checkpoint(tmp_path / "c", labels=("happy", *SHUFFLED[1:-1], "sad"))

    expected = vit.load(str(first)).predict(images).probabilities
    np.testing.assert_array_equal(vit.load(str(second)).predict(images).probabilities, expected)

    exchanged = [*range(7)]
    happy, sad = EMOTIONS.index("happy"), EMOTIONS.index("sad")
    exchanged[happy], exchanged[sad] = sad, happy
    other = vit.load(str(swapped)).predict(images).probabilities
    np.testing.assert_allclose(other, expected[:, exchanged], atol=TOLERANCE)
    assert np.abs(other - expected).max() > 100 * TOLERANCE


def test_labels_follow_their_numbers_not_their_place_in_the_file(vit: ModuleType) -> None:
    labels = {str(i): label for i, label in reversed(list(enumerate(SHUFFLED)))}
    assert vit._labels({"id2label": labels}, "x") == list(SHUFFLED)


def test_an_image_does_not_depend_on_its_batch(vit: ModuleType, tmp_path: Path, images: np.ndarray) -> None:
    classifier = vit.load(str(write_checkpoint(tmp_path / "vit")))
    alone = classifier.predict(images, batch_size=1).probabilities
    together = classifier.predict(images, batch_size=5).probabilities
    np.testing.assert_allclose(alone, together, atol=TOLERANCE)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=TOLERANCE)
    assert classifier.predict(images[:0]).probabilities.shape == (0, 7)


def test_the_card_says_who_it_is_and_travels(vit: ModuleType, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "vit", processor=HALF)
    card = vit.load(str(folder), trained_on=["AffectNet"], name="baseline").card

    model = transformers.ViTForImageClassification.from_pretrained(folder)
    assert (card.name, card.kind, card.input_side) == ("baseline", "vit", SIDE)
    assert card.parameters == sum(p.numel() for p in model.parameters())
    assert (card.labels, card.own_labels) == (EMOTIONS, SHUFFLED)
    assert (card.training_data.known, card.training_data.datasets) == (True, ("AffectNet",))
    assert card.details["layer_norm_eps"] == 1e-12
    card.save(tmp_path / "card.json")
    assert Card.load(tmp_path / "card.json") == card


def test_another_resize_than_ours_is_noted_on_the_card(vit: ModuleType, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "vit", processor={**HALF, "resample": 3})
    assert "bicubic" in vit.load(str(folder)).card.details["note"]


# === What it was trained on ===


def test_training_data_is_unknown_unless_somebody_says(vit: ModuleType, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "vit")
    assert not vit.load(str(folder)).card.training_data.known
    assert vit.load(str(folder), trained_on=[]).card.training_data.known


def test_training_data_of_a_known_checkpoint_is_found_by_name(vit: ModuleType, tmp_path: Path) -> None:
    named = write_checkpoint(tmp_path / "dima806" / "facial_emotions_image_detection")
    assert vit.load(str(named)).card.training_data.datasets == ("facial-emotion-expressions",)

    tuned = write_checkpoint(tmp_path / "tuned")
    change_config(tuned, _name_or_path="dima806/facial_emotions_image_detection")
    assert vit.load(str(tuned)).card.training_data.datasets == ("facial-emotion-expressions",)

    cached = write_checkpoint(
        tmp_path / "models--dima806--facial_emotions_image_detection" / "snapshots" / "0123abcd"
    )
    card = vit.load(str(cached)).card
    assert card.training_data.datasets == ("facial-emotion-expressions",)
    assert card.details["revision"] == "0123abcd"


@pytest.mark.parametrize(
    ("readme", "datasets"),
    [
        ("---\nlicense: mit\ndatasets:\n- FER2013\n- AffectNet\n---\n# Model", ("FER2013", "AffectNet")),
        ("---\ndatasets: FER2013\n---\n", ("FER2013",)),
        ("---\nlicense: mit\n---\n", ()),
        ("---\n: [broken\n---\n", ()),
        ("datasets: FER2013", ()),
    ],
)
def test_training_data_is_read_from_the_readme(
    vit: ModuleType, tmp_path: Path, readme: str, datasets: tuple[str, ...]
) -> None:
    (tmp_path / "README.md").write_text(readme)
    assert vit._declared_datasets(tmp_path) == datasets


# === What cannot be used ===


@pytest.mark.parametrize("checkpoint", [None, ""])
def test_not_configured_says_which_key_to_set(vit: ModuleType, checkpoint: str | None) -> None:
    with pytest.raises(vit.ModelUnavailableError, match=r"no ViT is configured: set vit\.checkpoint"):
        vit.load(checkpoint)


@pytest.mark.parametrize("checkpoint", ["no-such-folder", "./models/vit", "/no/such/folder"])
def test_a_folder_that_is_not_there_is_named(vit: ModuleType, checkpoint: str) -> None:
    with pytest.raises(vit.ModelUnavailableError, match="neither a folder here nor a hub id"):
        vit.load(checkpoint)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "has no config.json"), ("model.safetensors", "has no model.safetensors")],
)
def test_a_missing_file_is_named(vit: ModuleType, tmp_path: Path, missing: str, message: str) -> None:
    folder = write_checkpoint(tmp_path / "vit")
    (folder / missing).unlink()
    with pytest.raises(vit.ModelUnavailableError, match=message):
        vit.load(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["ViTModel"]}, "its architecture is ViTModel"),
        ({"architectures": None}, "its architecture is none"),
        ({"model_type": "deit"}, "architecture"),
        ({"qkv_bias": False}, "attention has no bias"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'"),
        ({"layer_norm_eps": None}, "layer_norm_eps is missing"),
        ({"num_channels": 1}, "three channels"),
        ({"image_size": [32, 48]}, "not square"),
        ({"id2label": {"0": "cat", "1": "dog"}}, "not the seven emotions.*cat"),
        ({"id2label": dict(enumerate(("happy", *EMOTIONS[1:])))}, "exactly once"),
        ({"id2label": None}, "not the seven emotions"),
        ({"hidden_size": 64}, "keras-hub cannot load"),
    ],
)
def test_a_checkpoint_that_would_answer_wrongly_is_refused(
    vit: ModuleType, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_checkpoint(tmp_path / "vit")
    change_config(folder, **changes)
    with pytest.raises(vit.ModelUnavailableError, match=message):
        vit.load(str(folder))


def test_damaged_files_are_named(vit: ModuleType, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "vit", processor=HALF)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(vit.ModelUnavailableError, match="keras-hub cannot load"):
        vit.load(str(folder))
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(vit.ModelUnavailableError, match=r"preprocessor_config\.json .* cannot be read"):
        vit.load(str(folder))


@pytest.mark.parametrize(
    "processor", [{**HALF, "size": {"height": 64, "width": 64}}, {**HALF, "do_center_crop": True}]
)
def test_preprocessing_that_we_do_not_do_is_refused(
    vit: ModuleType, tmp_path: Path, processor: dict[str, Any]
) -> None:
    folder = write_checkpoint(tmp_path / "vit", processor=processor)
    with pytest.raises(vit.ModelUnavailableError, match="only a plain resize"):
        vit.load(str(folder))


def test_an_unreachable_hub_says_so_in_one_sentence_and_soon(
    vit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def unreachable(repo: str, **kwargs: Any) -> str:
        asked.update(kwargs, repo=repo)
        raise ConnectionError("Name or service not known\nand a long trace")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(vit.ModelUnavailableError) as caught:
        vit.load("someone/faces", revision="abc123")

    assert str(caught.value) == (
        "vit.checkpoint 'someone/faces' is no folder here and cannot be had from the Hugging Face hub at "
        "revision abc123 (ConnectionError: Name or service not known); download it elsewhere and give its "
        "folder"
    )
    assert asked["repo"] == "someone/faces"
    assert asked["revision"] == "abc123"
    assert asked["etag_timeout"] <= 5


def test_a_hub_id_is_fetched_and_loaded(
    vit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    cached = write_checkpoint(tmp_path / "models--someone--faces" / "snapshots" / "0123abcd", processor=HALF)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kwargs: str(cached))
    card = vit.load("someone/faces").card
    assert (card.details["checkpoint"], card.details["revision"]) == ("someone/faces", "0123abcd")


def test_the_exported_model_answers_the_same_for_any_batch(
    vit: ModuleType, tmp_path: Path, images: np.ndarray
) -> None:
    import onnxruntime

    from ferops.promotion.package import export_onnx

    classifier = vit.load(str(write_checkpoint(tmp_path / "vit", processor=PER_CHANNEL)))
    export_onnx(classifier.model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")

    for batch in (images[:1], images):
        (exported,) = session.run(["probabilities"], {"images": batch})
        np.testing.assert_allclose(exported, classifier.predict(batch).probabilities, atol=TOLERANCE)
