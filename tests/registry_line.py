"""A workspace with one packaged candidate, what a person does in it, and how a process dies at a step."""

import shutil

import mlflow

from ferops import files, tracking
from ferops.promotion.champion import Champion, load_champion
from ferops.promotion.registry import promote, promote_version, rollback
from tiny_package import write_tiny_package


class Line:
    def __init__(self, folder):
        self.folder = folder
        self.packages = folder / "packages"
        self.registry = folder / "registry"

    def train(self, seed):
        shutil.rmtree(self.packages, ignore_errors=True)
        return write_tiny_package(self.packages / "patt_lite", seed=seed)

    def decide(self, decision="promote", against="current", **more):
        champion = load_champion(self.registry)
        if against == "current":
            against = champion.version if champion else None
        files.write_json(
            self.folder / "gate.json",
            {
                "decision": decision,
                "candidate": "patt_lite",
                "decided_against_version": against,
                "reason": "every rule passed" if decision == "promote" else "min_recall failed",
                **more,
            },
        )

    def promote(self):
        return promote(
            self.folder / "gate.json", self.packages, self.registry, self.folder / "promotion.json"
        )

    def train_and_promote(self, seed):
        self.train(seed)
        self.decide()
        return self.promote()

    def promote_version(self, version):
        return promote_version(version, self.packages, self.registry)

    def rollback(self, expected=None):
        return rollback(self.packages, self.registry, expected)

    def champion(self):
        return Champion.load(self.registry)


def aliases():
    tracking.connect()
    found = mlflow.MlflowClient().get_registered_model(tracking.REGISTERED_MODEL).aliases
    return {alias: str(version) for alias, version in found.items()}


def versions():
    tracking.connect()
    return mlflow.MlflowClient().search_model_versions(f"name='{tracking.REGISTERED_MODEL}'")


class Killed(BaseException):
    pass


def killed_after(monkeypatch, owner, name, times=1):
    """The process dies right after the `times`-th call of a step."""
    step, calls = getattr(owner, name), []

    def dies(*args, **kwargs):
        result = step(*args, **kwargs)
        calls.append(name)
        if len(calls) == times:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, dies)
