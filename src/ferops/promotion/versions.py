"""Model versions in MLflow's registry: one for each package, which is known by its digest.

>>> client = connect()  # doctest: +SKIP
>>> find(client, digest).version, holder(client, "champion")  # doctest: +SKIP
('3', '3')
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ferops import tracking
from ferops.models.classifier import Card
from ferops.models.onnx import CARD_FILE, MODEL_FILE

#: Tag of a model version that holds its package's digest.
DIGEST_TAG = "package_sha256"

#: Tag of a model version that holds the gate's last decision on it: `promote` or `keep`.
GATE_TAG = "gate"

#: BentoML's own file in a stored model's folder; all else there is the package.
BENTO_FILE = "model.yaml"


def connect() -> Any:
    """A client of the registry, which gets the registered model if it has none yet."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow = tracking.connect()
    client = mlflow.MlflowClient()
    with suppress(mlflow.exceptions.MlflowException):  # it exists
        client.create_registered_model(
            tracking.REGISTERED_MODEL, description="Seven facial expressions from a 48x48 face."
        )
    return client


def holder(client: Any, alias: str) -> str | None:
    """The version that has an alias, or none."""
    version = client.get_registered_model(tracking.REGISTERED_MODEL).aliases.get(alias)
    return None if version is None else str(version)


def find(client: Any, digest: str, version: str | None = None) -> Any:
    """The model version of this package (and of this number, when given), or none."""
    found = client.search_model_versions(
        f"name='{tracking.REGISTERED_MODEL}' and tags.{DIGEST_TAG}='{digest}'"
    )
    fitting = [v for v in found if version is None or str(v.version) == version]
    return min(fitting, key=lambda v: int(v.version), default=None)


def get(client: Any, version: str) -> Any:
    """The model version of this number, or none where it is not there or has no package."""
    found = client.search_model_versions(f"name='{tracking.REGISTERED_MODEL}'")
    return next((v for v in found if str(v.version) == version and DIGEST_TAG in v.tags), None)


def registered(client: Any, package: Path, digest: str, verdict: Mapping[str, Any]) -> tuple[str, str]:
    """Version and run of the package, registered now if it was not before."""
    version = find(client, digest) or register(client, package, digest, verdict)
    client.set_model_version_tag(
        tracking.REGISTERED_MODEL, str(version.version), GATE_TAG, verdict["decision"]
    )
    return str(version.version), str(version.run_id)


def register(
    client: Any, package: Path, digest: str, verdict: Mapping[str, Any], number: str | None = None
) -> Any:
    """Log the package as an MLflow model (flavours onnx and pyfunc) in its own run, and register it.

    Args:
        client: from `connect`.
        package: the folder.
        digest: of the package.
        verdict: `decision` becomes the tag `gate`.
        number: the version that it had in a registry that was lost.
    """
    import mlflow
    import onnx

    card = Card.load(package / CARD_FILE)
    skipped = (MODEL_FILE, BENTO_FILE)
    with tracking.run(card.name, run_id=card.mlflow_run_id) as run_id:
        info = mlflow.onnx.log_model(
            onnx.load(str(package / MODEL_FILE)),
            name="package",
            signature=_signature(card),
            pip_requirements=["numpy", "onnx", "onnxruntime"],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            extra_files=[str(p) for p in sorted(package.iterdir()) if p.is_file() and p.name not in skipped],
            metadata={DIGEST_TAG: digest, "labels": list(card.labels), "synthetic": card.synthetic},
        )
    origin = {"source": info.model_uri, "run_id": run_id, "model_id": info.model_id}
    # Only a store of one's own is numbered up again; in a shared one a lost champion gets a new number.
    if number is not None and client.tracking_uri.startswith("sqlite:"):
        _burn_versions(client, int(number) - 1, origin)
    return client.create_model_version(
        tracking.REGISTERED_MODEL,
        **origin,
        tags=labels(card, digest) | {GATE_TAG: str(verdict["decision"])},
        description="trained on synthetic faces" if card.synthetic else None,
    )


def _burn_versions(client: Any, last: int, origin: Mapping[str, str]) -> None:
    """Use up the version numbers to `last` in a registry that starts anew.

    Logged predictions name the champion by its number, so that it must get the same one again, and no
    other model may get one that was given before.
    """
    given = client.search_model_versions(f"name='{tracking.REGISTERED_MODEL}'")
    number = max((int(version.version) for version in given), default=0)
    while number < last:
        number = int(client.create_model_version(tracking.REGISTERED_MODEL, **origin).version)
        client.delete_model_version(tracking.REGISTERED_MODEL, str(number))


def _signature(card: Card) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    side = card.input_side
    outputs: list[Any] = [TensorSpec(np.dtype("float32"), (-1, len(card.labels)), "probabilities")]
    if card.embedding_size:
        outputs.append(TensorSpec(np.dtype("float32"), (-1, card.embedding_size), "embedding"))
    images = TensorSpec(np.dtype("uint8"), (-1, side, side, 3), "images")
    return ModelSignature(inputs=Schema([images]), outputs=Schema(outputs))


def labels(card: Card, digest: str) -> dict[str, str]:
    """What both registries say of a package beside its files."""
    return {
        "candidate": card.name,
        DIGEST_TAG: digest,
        "dataset_sha256": card.training_data.dataset_sha256 or "unknown",
        "git_commit": card.git_commit or "unknown",
        "synthetic": str(card.synthetic).lower(),
    }
