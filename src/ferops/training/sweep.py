"""A sweep: trainings that differ from a recipe of params.yaml in what a file says.

    >>> runs = read_sweep(Path("sweeps/fer2013.yaml"), ["explore_1"], settings.recipes)  # doctest: +SKIP
    >>> runs[1].key  # doctest: +SKIP
    'explore_1-base-1'

`ferops sweep` trains them one after the other, `benchmarks/gpu.py` several at a time on an accelerator.
It needs pydantic and the settings alone, so that it also runs on a machine that has nothing else.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from ferops.settings import Attention, Recipe, Section, Seed, problems


class SweepError(ValueError):
    """A sweep's file is wrong; the message says where, and what to do."""


class Entry(Section):
    """One way to train, over some seeds.

    Attributes:
        name: unique in its group.
        change: keys of the recipe, nested, beside those that the group changes.
        attention: the wiring; none: the group's.
        seeds: one training each.
    """

    name: str = Field(min_length=1, max_length=100)  # it becomes a folder's
    change: Mapping[str, Any] = Field(default_factory=dict)
    attention: Attention | None = None
    seeds: list[Seed] = Field([0], min_length=1)


class Group(Section):
    """Entries that are compared with each other; the first is what the others are measured against.

    Attributes:
        change: keys of the recipe that all entries change.
        attention: the wiring.
        final: whether the test split may be measured: never where something is still chosen.
        runs: the entries.
    """

    change: Mapping[str, Any] = Field(default_factory=dict)
    attention: Attention = "feature"
    final: bool = False
    runs: list[Entry] = Field(min_length=1)


class Sweep(Section):
    """The file: a recipe of params.yaml, and groups of changes to it."""

    recipe: str
    groups: dict[str, Group] = Field(min_length=1)


@dataclass(frozen=True)
class Run:
    """One training of a sweep.

    Attributes:
        name: of the sweep's entry.
        group: of the sweep.
        final: whether the group's test results are computed.
        attention: the wiring.
        seed: of every random number.
        recipe: complete and checked.
    """

    name: str
    group: str
    final: bool
    attention: Attention
    seed: int
    recipe: Recipe

    @property
    def key(self) -> str:
        """Name of its files."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", f"{self.group}-{self.name}-{self.seed}")


def read_sweep(
    path: Path, groups: Sequence[str] | None, recipes: Mapping[str, Recipe], backbone: str | None = None
) -> list[Run]:
    """The trainings of some groups of a sweep file, in its order; every recipe is checked here.

    Args:
        path: the YAML file.
        groups: by name; none: all.
        recipes: of params.yaml.
        backbone: weights to start from, in the place of those that the recipes name.

    Raises:
        SweepError: if the file, a group or a recipe is wrong, or two trainings would share a name.
    """
    try:
        sweep = Sweep.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        raise SweepError(f"{path} is no sweep:\n{problems(error)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SweepError(f"{path} is no sweep: {error}") from None
    if sweep.recipe not in recipes:
        raise SweepError(f"{path}: no recipe {sweep.recipe!r} in params.yaml: it has {', '.join(recipes)}")
    base = recipes[sweep.recipe].model_dump(mode="json")
    runs: list[Run] = []
    for group in groups or sweep.groups:
        if group not in sweep.groups:
            raise SweepError(f"{path} has no group {group!r}: it has {', '.join(sweep.groups)}")
        held = sweep.groups[group]
        for entry in held.runs:
            place = f"{path}, {group}, {entry.name}"
            recipe = _changed(base, [held.change, entry.change], backbone, place)
            attention = entry.attention or held.attention
            runs += [Run(entry.name, group, held.final, attention, seed, recipe) for seed in entry.seeds]
    keys = [run.key for run in runs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise SweepError(f"{path}: {', '.join(twice)} occurs twice: give entries names of their own")
    return runs


def _changed(
    base: Mapping[str, Any], changes: Sequence[Mapping[str, Any]], backbone: str | None, place: str
) -> Recipe:
    out = dict(base)
    try:
        for change in changes:
            out = _merged(out, change)
        return Recipe.model_validate(out | ({"backbone": backbone} if backbone else {}))
    except ValidationError as error:
        raise SweepError(f"{place}:\n{problems(error)}") from None


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the nested keys of `change` in their places."""
    out = dict(base)
    for key, value in change.items():
        held = out.get(key)
        out[key] = _merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return out
