"""Flow `sweep` (deployment `sweep/recipes`): train variants of a recipe over seeds, a task for each.

    prefect deployment run sweep/recipes --param file=sweeps/fer2013.yaml --param 'groups=["continued"]'
    python flows/sweep.py sweeps/fer2013.yaml continued

What is finished is not trained again; what was interrupted is resumed. `ferops sweep` does the same
without Prefect.
"""

import sys
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from ferops.environment import Environment
from ferops.settings import load_settings
from ferops.training.sweep import Run, read_sweep

DATASET = Path("data/dataset")


@task(task_run_name="{run.key}", cache_policy=NO_CACHE)
def train_variant(run: Run, out: Path) -> Any:
    """Train one entry with one seed."""
    from ferops.training.run_sweep import train_run

    return train_run(run, load_settings(), DATASET, out, Environment().checkpoint_dir)


@flow(name="sweep", flow_run_name="{file}")
def sweep(file: Path, groups: list[str] | None = None) -> str:
    """Train every entry of some groups; the table is an artifact, and lies in the sweep's folder.

    Args:
        file: YAML of groups of changes to a recipe.
        groups: which; none: all.
    """
    from ferops.training.run_sweep import require_all_weights, write_report

    out = file.with_suffix("")
    results: list[Any] = []
    table = ""
    runs = read_sweep(file, groups, load_settings().recipes)
    require_all_weights(runs)
    for run in runs:
        results.append(train_variant(run, out))
        table = write_report(results, out)
        create_markdown_artifact(table, key="sweep", description=str(file))
    return table


if __name__ == "__main__":
    sweep(Path(sys.argv[1]), sys.argv[2:] or None)
