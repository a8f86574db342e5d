"""The application that the commands belong to, and where their files lie in a repository."""

import os
from pathlib import Path

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


def quiet_tensorflow() -> None:
    """Keep TensorFlow's notes on the machine to itself."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
