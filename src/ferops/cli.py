"""The command line: one verb per pipeline stage, and the things a person asks for.

Only `typer` is imported here; each command imports its room when it runs, so that help is instant.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

DATASET = Path("data/dataset")
VALIDATED = Path("data/validated.json")
MODEL = Path("models/patt_lite")
EVALUATIONS = Path("evaluations")
PACKAGES = Path("packages")
REPORTS = Path("reports")
CANDIDATES = ("patt_lite", "vit")

app = typer.Typer(
    name="ferops",
    help="Facial expression recognition, from dataset to served and monitored model.",
    epilog="Start with `make run`, or `dvc repro`. Each stage below is one line of dvc.yaml.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Bring your own dataset.", no_args_is_help=True)
app.add_typer(data_app, name="data")
explain_app = typer.Typer(help="Show why a published figure is what it is.", no_args_is_help=True)
app.add_typer(explain_app, name="explain")


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


@data_app.command("collect", epilog="Example: ferops data collect && dvc repro validate")
def data_collect() -> None:
    """Put kept faces that people named the emotion of into data/collected, under DVC."""
    from ferops.monitoring.collect import collect
    from ferops.settings import Environment

    typer.echo(collect(Environment().log_dir, Path.cwd()).sentence())


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

    settings = load_settings()
    summary = run_ingest(settings.data, settings.train.seed, DATASET)
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


@app.command(epilog="Example: KERAS_BACKEND=jax ferops train")
def train() -> None:
    """Train PAtt-Lite by the recipe that train.recipe names; one that was killed goes on where it was."""
    _quiet_tensorflow()
    from ferops.settings import Environment, load_settings
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
        Path | None, typer.Option(help="folder for models, curves and table; none: the file's name")
    ] = None,
) -> None:
    """Train variants of a recipe over seeds, each a tracked MLflow run; goes on where it was stopped."""
    _quiet_tensorflow()
    from ferops.settings import Environment, load_settings
    from ferops.training.run_sweep import train_run, write_report
    from ferops.training.sweep import read_sweep

    settings, out = load_settings(), out or file.with_suffix("")
    results = []
    runs = read_sweep(file, group, settings.recipes)
    for number, run in enumerate(runs, 1):
        typer.echo(f"{number} of {len(runs)}: {run.key}", err=True)
        results.append(train_run(run, settings, DATASET, out, Environment().checkpoint_dir))
        table = write_report(results, out)  # after each, so that one can look while it goes on
    typer.echo(f"{table}\n\n{out}/sweep.md, sweep.png, sweep.json; every training is a run in MLflow")


@app.command(epilog="Example: ferops adopt results final-long-0")
def adopt(
    results: Annotated[Path, typer.Argument(help="folder that benchmarks/gpu.py wrote")],
    run: Annotated[str, typer.Argument(help="which of its trainings: <group>-<name>-<seed>")],
) -> None:
    """Take over a model trained on another machine; `ferops evaluate patt_lite` goes on from there."""
    _quiet_tensorflow()
    from ferops.settings import load_settings
    from ferops.training.adopt import adopt as run_adoption

    card = run_adoption(results, run, load_settings(), DATASET, MODEL, REPORTS / "learning_curves.csv")
    device = card.details["device"]["name"]
    typer.echo(f"{MODEL}: {run}, trained on {device}, MLflow run {card.mlflow_run_id}")


@app.command(epilog="Example: ferops evaluate patt_lite")
def evaluate(
    candidate: Annotated[str, typer.Argument(help="patt_lite or vit")],
) -> None:
    """Measure a candidate on the test split, with and without copies of training images."""
    _quiet_tensorflow()
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


@app.command("package", epilog="Example: ferops package")
def package_candidates() -> None:
    """Export each evaluated candidate as ONNX, with all that serving and monitoring need."""
    _quiet_tensorflow()
    from ferops.data.store import Dataset
    from ferops.promotion.package import package_all
    from ferops.settings import load_settings

    index = package_all(
        {"patt_lite": MODEL}, EVALUATIONS, Dataset.open(DATASET), PACKAGES, load_settings().vit
    )
    for name, entry in index.items():
        typer.echo(f"{name}: {PACKAGES / name if entry['packaged'] else entry['reason']}")


@app.command(epilog="Example: ferops gate && open reports/gate.html")
def gate() -> None:
    """Judge the candidates by the rules of params.yaml; a refusal is a normal outcome (exit 0)."""
    from ferops.data.store import Dataset
    from ferops.promotion.champion import load_champion
    from ferops.promotion.gate import decide
    from ferops.serving.trial import serve_on_trial
    from ferops.settings import Environment, load_settings

    settings = load_settings()
    decision = decide(
        evaluations={name: EVALUATIONS / name for name in CANDIDATES},
        packages=PACKAGES,
        champion=load_champion(Environment().registry_dir),
        dataset=Dataset.open(DATASET),
        settings=settings.gate,
        trial=serve_on_trial,
        report=REPORTS / "gate.json",
        page=REPORTS / "gate.html",
        evaluation=settings.evaluation,
        seed=settings.train.seed,
    )
    typer.echo(decision.sentence())


@app.command(epilog="Example: ferops variants release")
def variants(
    folder: Annotated[
        Path | None,
        typer.Argument(help="a model served from this folder; none: the package of the gate's winner"),
    ] = None,
) -> None:
    """Judge a model in reduced precision beside fp32; what passes may answer. A refusal exits with 0."""
    from ferops import files
    from ferops.data.store import Dataset
    from ferops.promotion.judge_variants import judge_variants, judged_folders
    from ferops.promotion.variants import VARIANTS_FILE, Variants
    from ferops.serving.trial import serve_on_trial
    from ferops.settings import load_settings

    if folder is not None and folder.resolve().is_relative_to(PACKAGES.resolve()):
        raise typer.BadParameter(f"{folder} is known by its digest: for the gate's winner give no folder")
    folders = [folder] if folder else judged_folders(files.read_json(REPORTS / "gate.json"), PACKAGES)
    found = Variants()
    for model in folders:
        found = judge_variants(model, Dataset.open(DATASET), load_settings(), serve_on_trial)
        typer.echo("\n".join([f"{model}:", *found.lines()]))
    out = folder or REPORTS / "variants"
    out.mkdir(parents=True, exist_ok=True)
    found.save(out)
    typer.echo(f"{out / VARIANTS_FILE}{'' if folders else ': nothing judged, the gate passed no candidate'}")


@app.command(epilog="Example: ferops promote --version 3")
def promote(
    version: Annotated[
        int | None,
        typer.Option(min=1, help="a version of MLflow's registry that passed the gate; none: its winner"),
    ] = None,
) -> None:
    """Make the gate's winner champion in MLflow's registry and BentoML's store; safe to repeat."""
    from ferops.promotion.registry import promote as run_promotion
    from ferops.promotion.registry import promote_version
    from ferops.settings import Environment

    registry = Environment().registry_dir
    if version is None:
        promotion = run_promotion(REPORTS / "gate.json", PACKAGES, registry, REPORTS / "promotion.json")
    else:
        promotion = promote_version(str(version), PACKAGES, registry)
    typer.echo(promotion.sentence())


@app.command(epilog="Example: ferops rollback --from 3")
def rollback(
    expected: Annotated[
        int | None,
        typer.Option("--from", min=1, help="only if this version is champion: repeating it does no harm"),
    ] = None,
) -> None:
    """Make the champion before the present one champion again; running services follow."""
    from ferops.promotion.registry import rollback as run_rollback
    from ferops.settings import Environment

    version = None if expected is None else str(expected)
    typer.echo(run_rollback(PACKAGES, Environment().registry_dir, version).sentence())


@app.command(epilog="Example: FEROPS_PARAMS=params.yaml ferops release && git add release")
def release() -> None:
    """Put the candidate that the gate passed into release/, for git: served while there is no champion."""
    _quiet_tensorflow()
    from ferops.promotion.build_release import Outcomes, build_release
    from ferops.settings import Environment

    environment = Environment()
    outcomes = Outcomes(
        trained=MODEL,
        package=PACKAGES / MODEL.name,
        evaluation=EVALUATIONS / MODEL.name,
        gate=REPORTS / "gate.json",
        curves=REPORTS / "learning_curves.csv",
        params=environment.params,
        variants=REPORTS / "variants",
    )
    released = build_release(outcomes, environment.release_dir)
    size = sum(file.stat().st_size for file in released.path.iterdir()) / 1e6
    typer.echo(f"{released.path}: {released.label}, {size:.2f} MB; read its README.md, then commit it")


@app.command(epilog="Example: FEROPS_SHADOW=packages/patt_lite bentoml serve, and later: ferops shadow")
def shadow() -> None:
    """Say how far challengers agreed with the models that answered, by class."""
    from ferops.serving.shadow import read_agreements
    from ferops.settings import Environment

    log_dir = Environment().log_dir
    agreements = read_agreements(log_dir)
    if not agreements:
        typer.echo(f"no challenger was compared in {log_dir}: start the service with FEROPS_SHADOW")
    typer.echo("\n\n".join(agreement.table() for agreement in agreements))


@app.command(epilog="Example: ferops monitor || echo 'drift, or too few predictions'")
def monitor(
    test_alert: Annotated[
        bool, typer.Option("--test-alert", help="only send a test alert by every channel that is set up")
    ] = False,
) -> None:
    """Compare logged predictions with the served model's reference. Exit: 0 healthy, 3 drift, 4 too few."""
    from ferops.monitoring.channels import configured, try_out
    from ferops.settings import Environment

    environment = Environment()
    if test_alert:
        outcomes = try_out(environment)
        for name, why in outcomes.items():
            typer.echo(f"{name:<20} {why or 'sent'}")
        raise typer.Exit(int(any(outcomes.values())))
    from ferops.monitoring.acting import act
    from ferops.monitoring.monitor import POLICY_FILE
    from ferops.monitoring.monitor import monitor as run_monitor
    from ferops.monitoring.policy import load_policy

    verdict = run_monitor(
        environment.log_dir, environment.registry_dir, environment.release_dir, environment.monitoring_dir
    )
    typer.echo(verdict.sentence())
    folder = environment.monitoring_dir
    reaction = act(verdict, load_policy(folder / POLICY_FILE), folder, configured(environment))
    for complaint in reaction.complaints():
        typer.echo(complaint, err=True)
    raise typer.Exit(verdict.exit_code)


@app.command(epilog="Example: ferops compact")
def compact() -> None:
    """Turn the log's closed days into Parquet, and delete what is older than the policy says."""
    from ferops.monitoring.compaction import compact as run_compaction
    from ferops.monitoring.monitor import POLICY_FILE
    from ferops.monitoring.policy import load_policy
    from ferops.settings import Environment

    environment = Environment()
    policy = load_policy(environment.monitoring_dir / POLICY_FILE)
    typer.echo(run_compaction(environment.log_dir, policy.log).sentence())


@app.command(epilog="Example: ferops trace 0123456789abcdef0123456789abcdef")
def trace(
    prediction: Annotated[str, typer.Argument(help="its id, as the service answered it")],
) -> None:
    """Show a prediction's way back to model, run, code, parameters and data. Exit: 1 if a link is missing."""
    from ferops.monitoring.trace import Workspace
    from ferops.monitoring.trace import trace as run_trace
    from ferops.settings import Environment

    environment = Environment()
    workspace = Workspace(
        environment.log_dir,
        environment.registry_dir,
        environment.release_dir,
        PACKAGES,
        DATASET,
        REPORTS,
        environment.params,
    )
    links = run_trace(prediction, workspace)
    for link in links:
        typer.echo(link.line())
    raise typer.Exit(int(any(link.missing for link in links)))


@app.command(epilog="Example: ferops forget 0123456789abcdef0123456789abcdef")
def forget(
    prediction: Annotated[str, typer.Argument(help="its id, as the service answered it")],
) -> None:
    """Erase a prediction, its feedback and what a challenger said of it from the log, for good."""
    from ferops.monitoring.forgetting import forget as run_forget
    from ferops.settings import Environment

    typer.echo(run_forget(Environment().log_dir, prediction).sentence())


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
    out: Annotated[Path, typer.Option(help="folder for page, plots and numbers")] = REPORTS / "batch_leak",
) -> None:
    """Same weights, same images, different neighbours: does a model's accuracy depend on the batch?"""
    _quiet_tensorflow()
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


@app.command(epilog="Example: ferops status")
def status() -> None:
    """Say what the champion is, what is served, what the gate said last, and where the pages are."""
    from ferops.settings import Environment
    from ferops.status import describe

    environment = Environment()
    for line in describe(REPORTS, environment.registry_dir, environment.release_dir):
        typer.echo(line)


def _quiet_tensorflow() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main() -> None:
    """Entry point: an expected error is one sentence on stderr; FEROPS_DEBUG=1 shows its traceback."""
    from ferops.tracking import sigterm_interrupts

    try:
        with sigterm_interrupts():
            app()
    except BaseException as error:  # SIGTERM is no Exception
        ours = type(error).__module__.startswith("ferops") or isinstance(error, FileNotFoundError)
        if not ours or os.environ.get("FEROPS_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
