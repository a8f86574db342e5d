"""Models: train, compare recipes, measure, and explain what is measured."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ferops.cli.app import (
    CANDIDATES,
    DATASET,
    EVALUATIONS,
    MODEL,
    REPORTS,
    app,
    explain_app,
    quiet_tensorflow,
)


@app.command(epilog="Example: KERAS_BACKEND=jax ferops train")
def train() -> None:
    """Train PAtt-Lite by the recipe that train.recipe names; one that was killed goes on where it was."""
    quiet_tensorflow()
    from ferops.environment import Environment
    from ferops.settings import load_settings
    from ferops.training.train import train as run_training

    curves, checkpoints = REPORTS / "learning_curves.csv", Environment().checkpoint_dir
    card = run_training(load_settings(), DATASET, MODEL, curves, checkpoints)
    typer.echo(f"{MODEL}: best epoch {card.details['best_epoch']}, MLflow run {card.mlflow_run_id}")


@app.command(epilog="Example: ferops sweep sweeps/fer2013.yaml --group continued")
def sweep(
    file: Annotated[Path, typer.Argument(help="YAML of groups of changes to a recipe")],
    group: Annotated[
        list[str] | None, typer.Option(help="which group; may be repeated; none: all of them")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="folder for models, curves and table; none: the file's name", file_okay=False),
    ] = None,
) -> None:
    """Train variants of a recipe over seeds, each a tracked MLflow run; goes on where it was stopped."""
    quiet_tensorflow()
    from ferops.environment import Environment
    from ferops.settings import load_settings
    from ferops.training.run_sweep import require_all_weights, train_run, write_report
    from ferops.training.sweep import read_sweep

    settings, out = load_settings(), out or file.with_suffix("")
    results = []
    runs = read_sweep(file, group, settings.recipes)
    require_all_weights(runs)
    for number, run in enumerate(runs, 1):
        typer.echo(f"{number} of {len(runs)}: {run.key}", err=True)
        results.append(train_run(run, settings, DATASET, out, Environment().checkpoint_dir))
        table = write_report(results, out)  # after each, so that one can look while it goes on
    typer.echo(f"{table}\n\n{out}/sweep.md, sweep.png, sweep.json; every training is a run in MLflow")


@app.command(epilog="Example: ferops adopt results final-strong-0")
def adopt(
    results: Annotated[Path, typer.Argument(help="folder that benchmarks/gpu.py wrote")],
    run: Annotated[str, typer.Argument(help="which of its trainings: <group>-<name>-<seed>")],
) -> None:
    """Take over a model trained on another machine; `ferops evaluate patt_lite` goes on from there."""
    quiet_tensorflow()
    from ferops.settings import load_settings
    from ferops.training.adopt import adopt as run_adoption

    card = run_adoption(results, run, load_settings(), DATASET, MODEL, REPORTS / "learning_curves.csv")
    device = card.details["device"]["name"]
    typer.echo(f"{MODEL}: {run}, trained on {device}, MLflow run {card.mlflow_run_id}")
    typer.echo("next: dvc commit --force train (else `dvc repro` trains in its place), then dvc repro")


@app.command(epilog="Example: ferops evaluate patt_lite")
def evaluate(
    candidate: Annotated[str, typer.Argument(help="patt_lite or vit")],
) -> None:
    """Measure a candidate on the test split, with and without copies of training images."""
    quiet_tensorflow()
    from ferops.data.store import Dataset
    from ferops.evaluation.evaluate import evaluate as run_evaluation
    from ferops.evaluation.evaluate import not_evaluated
    from ferops.models.classifier import Classifier
    from ferops.settings import load_settings

    if candidate not in CANDIDATES:
        raise typer.BadParameter(f"{candidate!r} is none of {', '.join(CANDIDATES)}")
    settings = load_settings()
    dataset = Dataset.open(DATASET)
    out, metrics = EVALUATIONS / candidate, REPORTS / f"metrics_{candidate}.json"
    classifier: Classifier
    if candidate == "vit":
        from ferops.models import vit

        try:
            classifier = vit.load(settings.vit.checkpoint, settings.vit.revision, settings.vit.trained_on)
        except vit.ModelUnavailableError as error:
            not_evaluated(candidate, str(error), dataset, out, metrics)
            typer.echo(f"{candidate} was not evaluated: {error}")
            if settings.vit.checkpoint:
                typer.echo("once it can be had: dvc repro --force --single-item evaluate_vit")
            return
        evaluation = settings.evaluation.model_copy(update={"batch_size": settings.vit.batch_size})
    else:
        from ferops.models import patt_lite

        classifier = patt_lite.load(MODEL)
        evaluation = settings.evaluation
    # The list of training images lies beside a model that was trained here.
    folder = MODEL if candidate == "patt_lite" else None
    seed = settings.train.seed
    result = run_evaluation(classifier, dataset, evaluation, seed, out, metrics, model_folder=folder)
    typer.echo(result.sentence())


@explain_app.command("batch-leak", epilog="Example: ferops explain batch-leak --model theirs.keras")
def explain_batch_leak(
    model: Annotated[
        Path | None,
        typer.Option(
            help="a Keras classifier: a .keras file, or a folder such as models/patt_lite; "
            "none: PAtt-Lite in the published wiring, its head trained now"
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="without --model: the backbone's weights, instead of the recipe's")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="the model's outputs in their order; default: angry,disgust,fear,happy,sad,surprise,neutral"
        ),
    ] = None,
    pixels: Annotated[
        Literal["0..255", "0..1", "-1..1"], typer.Option(help="what a model with float input takes")
    ] = "0..255",
    images: Annotated[
        int | None,
        typer.Option(min=2, help="test images; default: evaluation.invariance_images, as the gate"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="default: evaluation.batch_size, as the gate")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for page, plots and numbers", file_okay=False)] = REPORTS
    / "batch_leak",
) -> None:
    """Same weights, same images, different neighbours: does a model's accuracy depend on the batch?"""
    quiet_tensorflow()
    from ferops.data.store import Dataset
    from ferops.explanation.batch_leak import explain_file, explain_trained
    from ferops.settings import load_settings

    if model is None and (labels or pixels != "0..255"):
        raise typer.BadParameter("--labels and --pixels say how a file is read: give --model")
    if model is not None and weights:
        raise typer.BadParameter("--weights is for the model that is trained here: leave out --model")
    settings, dataset = load_settings(), Dataset.open(DATASET)
    if model is None:
        explanation = explain_trained(
            dataset, settings, weights, out=out, images=images, batch_size=batch_size
        )
    else:
        named = labels.split(",") if labels else None
        explanation = explain_file(
            model, dataset, settings, named, pixels, out=out, images=images, batch_size=batch_size
        )
    typer.echo(explanation.sentence())
    typer.echo(f"page: {out / 'batch_leak.html'}")
