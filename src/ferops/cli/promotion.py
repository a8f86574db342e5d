"""From a measured candidate to the champion, and back."""

from pathlib import Path
from typing import Annotated

import typer

from ferops.cli.app import CANDIDATES, DATASET, EVALUATIONS, MODEL, PACKAGES, REPORTS, app, quiet_tensorflow


@app.command("package", epilog="Example: ferops package")
def package_candidates() -> None:
    """Export each evaluated candidate as ONNX, with all that serving and monitoring need."""
    quiet_tensorflow()
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
    from ferops.environment import Environment
    from ferops.promotion.champion import load_champion
    from ferops.promotion.gate import decide
    from ferops.serving.trial import serve_on_trial
    from ferops.settings import load_settings

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
    from ferops.environment import Environment
    from ferops.promotion.registry import promote as run_promotion
    from ferops.promotion.registry import promote_version

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
    from ferops.environment import Environment
    from ferops.promotion.registry import rollback as run_rollback

    version = None if expected is None else str(expected)
    typer.echo(run_rollback(PACKAGES, Environment().registry_dir, version).sentence())


@app.command(epilog="Example: FEROPS_PARAMS=params.yaml ferops release && git add release")
def release() -> None:
    """Put the candidate that the gate passed into release/, for git: served while there is no champion."""
    quiet_tensorflow()
    from ferops.environment import Environment
    from ferops.promotion.build_release import Outcomes, build_release

    environment = Environment()
    outcomes = Outcomes(
        trained=MODEL,
        package=PACKAGES / MODEL.name,
        evaluation=EVALUATIONS / MODEL.name,
        gate=REPORTS / "gate.json",
        validation=REPORTS / "validation.json",
        curves=REPORTS / "learning_curves.csv",
        params=environment.params,
        variants=REPORTS / "variants",
    )
    released = build_release(outcomes, environment.release_dir)
    size = sum(file.stat().st_size for file in released.path.iterdir()) / 1e6
    typer.echo(f"{released.path}: {released.label}, {size:.2f} MB; read its README.md, then commit it")
