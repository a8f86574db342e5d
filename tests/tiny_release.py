"""A release folder in milliseconds: a tiny package and its manifest, for whoever serves or monitors one."""

from pathlib import Path

from ferops import files
from ferops.promotion.release import MANIFEST_FILE, Manifest, Release
from tiny_package import write_tiny_package


def write_tiny_release(folder: Path, seed: int = 3) -> Release:
    """As `ferops release` leaves it, but for the files that only people and Keras read."""
    write_tiny_package(folder, seed, synthetic=False)
    manifest = Manifest(
        candidate="patt_lite",
        model="fer-classifier",
        package_sha256="5e1ea5ed" * 8,
        trained_sha256="7a" * 32,
        dataset_sha256="da" * 32,
        params_sha256="9a" * 32,
        git_commit="c0" * 20,
        mlflow_run_id="r",
        synthetic=False,
        decided_at="2026-02-28T00:00:00+00:00",
        files={path.name: files.sha256(path) for path in folder.iterdir()},
    )
    files.write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))
    return Release.load(folder)
