"""Datasets: bring one, grow it by labelled traffic, read and check it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ferops.cli.app import DATASET, REPORTS, VALIDATED, app, data_app

#: As the monitor's report writes them, and ISO.
MOMENTS = ["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


@data_app.command("add", epilog="Example: ferops data add fer2013_images ~/Downloads/archive.zip")
def data_add(
    source: Annotated[str, typer.Argument(help="fer2013_csv, fer2013_images or image_tree")],
    path: Annotated[Path, typer.Argument(help="the dataset's file or folder")],
) -> None:
    """Put a dataset under DVC and point params.yaml at it."""
    from ferops.data.add import add_dataset
    from ferops.settings import load_settings

    add_dataset(source, path, Path.cwd())
    recipe = load_settings(Path("params.yaml")).train.recipe
    typer.echo(
        f"params.yaml points at it, and train.recipe is {recipe}; review it and the gate, then `dvc repro`"
    )


@data_app.command(
    "collect", epilog='Example: ferops data collect --since "2026-11-22 20:00" && dvc repro validate'
)
def data_collect(
    since: Annotated[
        datetime | None,
        typer.Option(formats=MOMENTS, help="only faces of that moment (UTC) and later: those of a drift"),
    ] = None,
) -> None:
    """Put kept faces that people named the emotion of into data/collected, under DVC."""
    from ferops.environment import Environment
    from ferops.monitoring.collect import collect

    moment = since.replace(tzinfo=UTC) if since else None
    typer.echo(collect(Environment().log_dir, Path.cwd(), since=moment).sentence())


@data_app.command("reject", epilog="Example: ferops data reject 20261122T201500Z")
def data_reject(batch: Annotated[str, typer.Argument(help="its name in data/collected")]) -> None:
    """Take a batch that validation stopped out of data/collected; its labels are not collected again."""
    from ferops.data.collected import reject

    reject(Path.cwd(), batch)
    typer.echo(f"{batch} is out of data/collected; `dvc repro` goes on without it")


@data_app.command("pack", epilog="Example: ferops data pack fer2013.npz")
def data_pack(path: Annotated[Path, typer.Argument(help="the .npz file to write")]) -> None:
    """Write the dataset as one array file, for a machine with an accelerator (benchmarks/gpu.py)."""
    from ferops.data.packed import pack
    from ferops.data.store import Dataset

    pack(Dataset.open(DATASET), path)
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


@app.command(epilog="Example: ferops ingest")
def ingest() -> None:
    """Read the source of params.yaml into the Parquet dataset."""
    from ferops.data.ingest import ingest as run_ingest
    from ferops.settings import load_settings

    summary = run_ingest(load_settings().data, DATASET)
    counts = ", ".join(f"{split} {sum(rows.values())}" for split, rows in summary.rows.items())
    typer.echo(f"{DATASET}: {counts}{' (synthetic faces)' if summary.synthetic else ''}")
    for note in summary.notes:
        typer.echo(f"  {note}")


@app.command(epilog="Example: ferops validate")
def validate() -> None:
    """Check the dataset with Great Expectations; a blocking failure exits with 1."""
    from ferops import files
    from ferops.data.validation import validate as run_validation
    from ferops.settings import load_settings

    report = run_validation(
        DATASET, load_settings().validation, REPORTS / "validation", REPORTS / "validation.json"
    )
    # Training waits for this file, not for the report: another limit is no reason to train again.
    files.write_json(VALIDATED, {"dataset_sha256": report.dataset_sha256})
    typer.echo(f"validation passed; page: {REPORTS / report.docs}")
    for warning in report.warnings:
        typer.echo(f"  warning: {warning}")
