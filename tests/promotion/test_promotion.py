"""The promotion gate on a real registry: what passes, what is said, and which version has the alias afterwards."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from search import promotion
from search.comparison.predictions import FILE, ONLY, Predictions
from search.errors import RegistryError, UsageError
from search.promotion import Conditions
from search.promotion.judge import Decision, Judge
from search.tracking import history, registry
from search.tracking.logged_model import PREDICTIONS_DIGEST, digest_of
from tests.comparison.test_verdict import classifier
from tests.conftest import command

ROWS = 400
Add = Callable[..., str]


def predictions(skill: float, seed: int = 0, rows: int = ROWS) -> Predictions:
    """Return what a classifier of some skill gives for rows that all have."""
    y = np.random.default_rng(0).integers(0, 2, rows)
    made = classifier(y, np.random.default_rng([seed, int(100 * skill)]), skill)
    region = np.asarray(["north" if i % 4 else "south" for i in range(rows)])
    baseline: dict[str, Any] = {
        "baseline": {ONLY: np.asarray([0.5])},
        "baseline_loss": np.full(rows, np.log(2), "float32"),
    }
    return replace(made, slices={"region": region}, **baseline)


@pytest.fixture
def add(folder: Path) -> Add:
    """Registers a version of model `m` with these predictions, as a search does; returns its number."""
    return registering(folder)


def registering(folder: Path) -> Add:
    """Return a function that registers a version of model `m` in MLflow's store of the moment."""
    client = MlflowClient()
    experiment = client.create_experiment("m")

    def register(kept: Predictions | None, **tags: str) -> str:
        run = client.create_run(experiment, run_name="trial-00000")
        known = {} if kept is None else {PREDICTIONS_DIGEST: digest_of(kept.to_bytes())}
        model = mlflow.initialize_logged_model("model", source_run_id=run.info.run_id, tags=known)
        with_model = Path(folder / "MLmodel")
        with_model.write_text("flavors: {}\n")
        client.log_model_artifact(model.model_id, str(with_model))
        if kept is not None:
            (folder / FILE).write_bytes(kept.to_bytes())
            client.log_model_artifact(model.model_id, str(folder / FILE))
        mlflow.finalize_logged_model(model.model_id, "READY")
        value = "nan" if kept is None or kept.loss is None else f"{kept.loss.mean():.6g}"
        recorded = {registry.TEST_METRIC: "test_loss", registry.TEST_VALUE: value, registry.TEST_DIRECTION: "minimize"}
        recorded |= {registry.DIGEST: "0123abcd", "run_id": run.info.run_id, "metric.parameters": "500"}
        return registry.register(
            "m", model.model_id, tags={**recorded, **tags}, description="A text.", about="A model."
        ).version

    return register


def champion(model: str = "m") -> str:
    """Return the champion's number as MLflow has it."""
    return str(MlflowClient().get_model_version_by_alias(model, "champion").version)


def test_better_is_promoted_worse_refused_and_equal_undecided(add: Add) -> None:
    """Half of all promotions would be luck."""
    add(predictions(1.0))
    first = promotion.promote("m")
    assert (first.promoted, first.previous) == (True, None)
    assert "better than the trivial model" in first.reason
    add(predictions(2.0))
    better = promotion.promote("m")
    assert (better.promoted, better.version, better.previous) == (True, "2", "1")
    assert "surely better" in better.reason
    told = better.as_json()
    assert set(told) == {"model", "version", "alias", "previous", "promoted", "reason", "verdict"}
    verdict = told["verdict"]
    assert set(verdict) == {"metric", "champion", "challenger", "difference", "interval", "better"}
    assert verdict["metric"] == "loss"
    assert verdict["champion"] > verdict["challenger"]
    assert 0 < verdict["interval"][0] < verdict["difference"] < verdict["interval"][1]
    add(predictions(1.0, seed=5))
    worse = promotion.promote("m")
    assert (worse.promoted, worse.refused) == (False, True)
    assert "surely worse" in worse.reason
    assert worse.verdict is not None
    assert worse.verdict.better is False
    add(predictions(2.0, seed=9))
    undecided = promotion.promote("m")
    assert undecided.verdict is not None
    assert (undecided.promoted, undecided.verdict.better) == (False, None)
    assert "undecided; about" in undecided.reason
    assert "more rows" in undecided.reason
    assert champion() == "2"


def test_a_first_version_that_knows_nothing_is_refused(add: Add) -> None:
    """A model that is no better than the majority class would go live."""
    add(predictions(0.0))
    told = promotion.promote("m")
    assert told.refused
    assert "the trivial model" in told.reason
    assert registry.holder("m", "champion") is None


def test_the_verdict_and_its_picture_are_on_the_version(add: Add) -> None:
    """A colleague would see a new champion and no reason."""
    add(predictions(1.0))
    promotion.promote("m")
    add(predictions(2.0))
    promotion.promote("m", conditions=Conditions(metrics=("accuracy", "auc"), slices="region", reason="spring release"))
    version = MlflowClient().get_model_version("m", "2")
    kept = registry.find("m", "2").tags
    assert json.loads(kept["champion.verdict"])["better"] is True
    assert kept["champion.reason"].endswith("(spring release)")
    shown = {name for name in version.tags if not name.startswith("mlflow.")}
    assert shown == {"test_value", "data_digest", "champion.since"}, "what a person reads"
    assert version.description.startswith("A text.")
    assert "**champion** since" in version.description
    runs = MlflowClient().search_runs([MlflowClient().get_experiment_by_name("m").experiment_id])
    assert {run.info.run_id for run in runs} >= {version.run_id}
    assert not [run for run in runs if run.data.tags.get("kind") == "promotion"], "it is no trial"
    picture = "promotion/champion/verdict.png"
    assert f"![verdict](get-artifact?path={picture}&run_uuid={version.run_id})" in version.description
    files = {each.path for each in MlflowClient().list_artifacts(version.run_id, "promotion/champion")}
    assert files == {"promotion/champion/verdict.json", picture}


def test_what_else_was_asked_for_refuses(add: Add) -> None:
    """A model that is better on the whole, but too large, or worse for one region, would go live."""
    add(predictions(1.0))
    promotion.promote("m")
    better = predictions(2.0)
    assert better.loss is not None
    south = better.slices["region"] == "south"
    add(replace(better, loss=np.where(south, better.loss + 0.6, better.loss - 0.3).astype("float32")))
    for wrong, message in {
        Conditions(slices="region"): "surely worse where region is south",
        Conditions(min_gain=0.9): "not better by 0.9",
        Conditions(max_parameters=100): "its parameters is 500, the limit 100",
        Conditions(max_size_mb=1.0): "its size in MB is not known, the limit 1",
    }.items():
        told = promotion.promote("m", conditions=wrong, dry_run=True)
        assert told.refused, wrong
        assert message in told.reason
    told = promotion.promote("m", conditions=Conditions(max_parameters=500), dry_run=True)
    assert (told.promoted, told.refused) == (False, False)
    assert champion() == "1", "a dry run changes nothing"
    assert not any(key.startswith("champion") for key in registry.find("m", "2").tags)


def test_a_small_loss_may_be_accepted(add: Add) -> None:
    """A smaller model that is as good could never replace the champion."""
    add(predictions(1.5))
    promotion.promote("m")
    add(predictions(1.5, seed=4))
    assert promotion.promote("m", conditions=Conditions(max_loss=0.001)).refused
    accepted = promotion.promote("m", conditions=Conditions(max_loss=0.2))
    assert accepted.promoted
    assert "surely not worse by more than 0.2" in accepted.reason


def test_other_data_are_refused_unless_forced(add: Add) -> None:
    """A version tested on easier rows would win, or nobody could ever change the data."""
    add(predictions(1.0))
    promotion.promote("m")
    made = predictions(2.0)
    add(replace(made, about=replace(made.about, digest="ffff0000")))
    told = promotion.promote("m")
    assert told.refused
    assert "different data (digests 0123abcd and ffff0000); --data FILE" in told.reason
    with pytest.raises(UsageError, match="--force needs --reason"):
        Conditions(force=True)
    forced = promotion.promote("m", conditions=Conditions(force=True, reason="new sensors"))
    assert forced.promoted
    assert forced.reason.startswith("forced: new sensors (they were tested on different data")
    assert [each.kind for each in promotion.moves("m")] == ["promoted", "forced"]


def test_rows_of_a_file_decide_alone() -> None:
    """What was recorded on other rows would promote a version that is worse on the file's rows."""
    y = np.random.default_rng(0).integers(0, 2, ROWS)
    accuracy = {"metric": "accuracy", "direction": "maximize"}
    good, bad = (classifier(y, np.random.default_rng(1), skill, **accuracy) for skill in (2.0, 0.2))
    tags = {registry.TEST_METRIC: "test_accuracy", registry.TEST_DIRECTION: "maximize", registry.DIGEST: "0123abcd"}
    versions = [
        registry.Registered("m", number, tags={**tags, "metric.test_accuracy": value, registry.TEST_VALUE: value})
        for number, value in (("1", "0.6"), ("2", "0.999"))
    ]

    def decided(champion: Predictions, challenger: Predictions) -> Decision:
        kept = {version.uri: each for version, each in zip(versions, (champion, challenger), strict=True)}
        return Judge(Conditions(data=Path("rows.csv")), kept).decide(versions[1], versions[0])

    assert not decided(good, bad).passed
    assert decided(bad, good).passed
    own = {"metric": "of_my_own", "direction": "maximize"}
    unknown = [classifier(y, np.random.default_rng(1), skill, **own) for skill in (0.2, 2.0)]
    told = decided(*unknown)
    assert not told.passed
    assert told.reason.startswith("the rows of rows.csv cannot decide: ")


def test_what_is_no_number_is_refused(add: Add) -> None:
    """A model whose loss is NaN on one row would become champion."""
    made = predictions(2.0)
    assert made.loss is not None
    broken = replace(made, loss=np.where(np.arange(ROWS) == 7, np.nan, made.loss))
    add(broken)
    assert promotion.promote("m").refused, "also as the first"
    add(predictions(1.0))
    promotion.promote("m")
    add(broken)
    told = promotion.promote("m")
    assert told.refused
    assert "the loss of challenger is not a finite number" in told.reason
    assert told.as_json()["verdict"]["better"] is False


def test_a_version_without_predictions_is_compared_by_what_was_recorded(add: Add) -> None:
    """Models registered by an earlier release could not be promoted or replaced."""
    add(None, **{registry.TEST_VALUE: "0.5"})
    assert promotion.promote("m").promoted
    add(None, **{registry.TEST_VALUE: "0.4"})
    told = promotion.promote("m")
    assert told.promoted
    assert "without the test predictions of both: recorded test values, no interval" in told.reason
    assert told.as_json()["verdict"]["interval"] is None
    add(predictions(0.0), **{registry.TEST_VALUE: "0.45"})
    assert promotion.promote("m").refused
    add(None, **{registry.TEST_VALUE: "0.3", registry.DIGEST: "ffff0000"})
    assert "different data" in promotion.promote("m").reason


def test_predictions_that_were_changed_are_refused(add: Add, folder: Path) -> None:
    """Whoever can write the artifacts would decide what goes live."""
    add(predictions(1.0))
    promotion.promote("m")
    add(predictions(2.0))
    version = registry.find("m", "2")
    (folder / FILE).write_bytes(predictions(9.0).to_bytes())
    MlflowClient().log_model_artifact(version.model_id, str(folder / FILE))
    told = promotion.promote("m")
    assert told.refused
    assert "not those that it was registered with" in told.reason


def test_a_chain_of_rollbacks(add: Add) -> None:
    """After two bad releases only the second could be taken back."""
    for skill in (1.0, 2.0, 4.0):
        add(predictions(skill))
        assert promotion.promote("m").promoted
    assert [promotion.rollback("m").version, promotion.rollback("m").version] == ["2", "1"]
    with pytest.raises(RegistryError, match="is its first champion"):
        promotion.rollback("m")
    assert promotion.promote("m").version == "3"
    back = promotion.rollback("m", reason="it was slow")
    assert (back.version, back.previous, champion()) == ("1", "3", "1")
    told = [(each.version, each.kind) for each in promotion.moves("m")]
    assert told == [
        ("1", "promoted"),
        ("2", "promoted"),
        ("3", "promoted"),
        ("2", "rolled back"),
        ("1", "rolled back"),
        ("3", "promoted"),
        ("1", "rolled back"),
    ]
    assert promotion.moves("m")[-1].reason == "rolled back from version 3: it was slow"


def test_an_alias_moved_by_hand_or_by_an_earlier_release_is_rolled_back(add: Add) -> None:
    """Whoever moved the alias in the UI would be stuck there."""
    for skill in (1.0, 2.0, 3.0):
        add(predictions(skill))
    client = MlflowClient()
    client.set_registered_model_alias("m", "champion", "1")
    for key, value in {"previous": "1", "reason": "better", "since": "2026-01-01T10:00:00+00:00"}.items():
        client.set_model_version_tag("m", "2", f"champion.{key}", value)
    client.set_registered_model_alias("m", "champion", "2")
    assert [(each.version, each.reason) for each in promotion.moves("m")] == [("2", "better")]
    assert promotion.rollback("m").version == "1"
    client.set_registered_model_alias("m", "champion", "3")
    assert promotion.rollback("m").version == "1"


def test_a_deleted_champion_is_rolled_back(add: Add) -> None:
    """Whoever deleted a bad champion would have no champion, and no way back to the one before."""
    for skill in (1.0, 2.0):
        add(predictions(skill))
        promotion.promote("m")
    MlflowClient().delete_model_version("m", "2")
    assert registry.holder("m", "champion") is None
    back = promotion.rollback("m", reason="it leaked")
    assert (back.version, back.previous, champion()) == ("1", None, "1")
    assert back.reason == "no version was champion any more: it leaked"
    with pytest.raises(RegistryError, match="version 1 of model 'm' is its first champion"):
        promotion.rollback("m")


def test_versions_that_search_did_not_register(add: Add) -> None:
    """A registry that other programs write to as well would end every promotion in a traceback."""
    client = MlflowClient()
    client.create_registered_model("o'brien")
    client.create_model_version("o'brien", "/nowhere")
    by_hand = promotion.promote("o'brien", version="1")
    assert by_hand.refused
    assert "recorded no finite test value" in by_hand.reason
    limited = Conditions(force=True, reason="it is known", max_size_mb=1.0, max_latency_ms=1.0)
    assert "its size in MB is not known" in promotion.promote("o'brien", version="1", conditions=limited).reason
    assert champion("o'brien") == "1"
    add(predictions(1.0))
    assert "no common test metric" in promotion.promote("m", to="o'brien").reason
    promotion.promote("m")
    add(predictions(2.0))
    lost = registry.find("m", "2")
    client.delete_run(lost.run_id)
    client.delete_logged_model(lost.model_id)
    told = promotion.promote("m", conditions=Conditions(max_size_mb=1.0))
    assert told.refused
    assert champion() == "1"


def test_a_copy_in_another_model(add: Add) -> None:
    """Teams with a model for each environment would copy by hand, and past the gate."""
    add(predictions(1.0))
    promotion.promote("m")
    copied = promotion.promote("m", version="1", to="production")
    assert (copied.model, copied.version, copied.promoted) == ("production", "1", True)
    add(predictions(0.2))
    assert promotion.promote("m", to="production").refused
    add(predictions(2.0))
    second = promotion.promote("m", to="production")
    assert (second.version, second.previous, champion("production")) == ("2", "1", "2")
    assert champion() == "1"
    assert [each.version for each in promotion.moves("production")] == ["1", "2"], "the copied tags are not its history"
    assert "already" in promotion.promote("m", to="production").reason
    assert promotion.rollback("production").version == "1"


@pytest.mark.parametrize("locked", [True, False], ids=["one machine", "two machines"])
def test_of_two_promotions_at_once_the_better_stands(add: Add, locked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would report success, and the worse version would be champion."""
    if not locked:
        monkeypatch.setattr(history, "one_at_a_time", lambda *_: nullcontext())
    add(predictions(1.0))
    promotion.promote("m")
    add(predictions(2.0))
    add(predictions(4.0))
    for _ in range(5):
        MlflowClient().set_registered_model_alias("m", "champion", "1")
        for version in ("2", "3"):
            for key in [each for each in registry.find("m", version).tags if each.startswith("champion")]:
                registry.untag(registry.find("m", version), key)
        together = threading.Barrier(2)
        told: dict[str, promotion.Promotion] = {}

        def promote(
            version: str, told: dict[str, promotion.Promotion] = told, at: threading.Barrier = together
        ) -> None:
            at.wait()
            told[version] = promotion.promote("m", version=version)

        threads = [threading.Thread(target=promote, args=(version,)) for version in ("2", "3")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert champion() == "3"
        assert told["3"].promoted
        last = [each.version for each in promotion.moves("m")][-1]
        assert last == "3"


def test_the_later_of_two_yields_when_it_is_not_better(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version decided against the old champion would replace a better new one."""
    add(predictions(1.0))
    promotion.promote("m")
    add(predictions(4.0))
    add(predictions(2.0))
    inner = registry.move

    def other_first(version: registry.Registered, alias: str) -> None:
        monkeypatch.setattr(registry, "move", inner)
        assert promotion.promote("m", version="2").promoted, "it is decided and done before this one moves"
        inner(version, alias)

    monkeypatch.setattr(history, "one_at_a_time", lambda *_: nullcontext())
    monkeypatch.setattr(registry, "move", other_first)
    told = promotion.promote("m", version="3")
    assert (told.promoted, told.refused, told.previous) == (False, True, "2")
    assert "version 2 became champion at the same time" in told.reason
    assert champion() == "2"
    assert [each.version for each in promotion.moves("m")] == ["1", "2"]


def test_slices_that_nothing_tells_are_told_in_a_line(add: Add) -> None:
    """A ranking metric with a loss of the user's own would end in a traceback."""
    for skill in (1.0, 2.0):
        made = predictions(skill)
        add(replace(made, loss=None, baseline_loss=None, about=replace(made.about, metric="auc", direction="maximize")))
        with pytest.raises(UsageError, match="--slices region: the kept predictions do not tell auc row by row"):
            promotion.promote("m", conditions=Conditions(slices="region"))
        assert promotion.promote("m").promoted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metrics": ("acuracy",)}, r"--metric acuracy: .*did you mean 'accuracy'"),
        ({"slices": "regoin"}, "--slices regoin: no such column; the predictions have region.*did you mean 'region'"),
        ({"max_loss": float("nan")}, "--max-loss nan: give a number"),
        ({"max_loss": 0.1, "min_gain": 0.1}, "--min-gain with --max-loss"),
        ({"data": Path("nowhere.csv")}, "--data: no file nowhere.csv"),
    ],
)
def test_what_cannot_be_asked_is_one_line(add: Add, given: dict[str, Any], message: str) -> None:
    """A typing error would pass unseen, or end in a traceback."""
    add(predictions(1.0))
    with pytest.raises(UsageError, match=message):
        promotion.promote("m", conditions=Conditions(**given))
    promotion.promote("m")
    add(predictions(2.0))
    with pytest.raises(UsageError, match=message):
        promotion.promote("m", conditions=Conditions(**given))
    with pytest.raises(UsageError, match="--alias 'v1'"):
        promotion.promote("m", alias="v1")
    with pytest.raises(UsageError, match="--to 'a/b': a registered model's name"):
        promotion.promote("m", to="a/b")
    with pytest.raises(RegistryError, match="no registered model 'a/b'; the registry has m"):
        promotion.promote("a/b")


def test_the_command_says_what_it_did(add: Add, folder: Path) -> None:
    """Scripts could not tell promoted from refused, and people not why."""
    add(predictions(1.0))
    done = command("search.promote", "m", "--json", cwd=folder)
    assert (done.returncode, json.loads(done.stdout)["promoted"]) == (0, True), done.stderr
    add(predictions(1.0, seed=3))
    done = command("search.promote", "m", "--metric", "accuracy", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "m version 2 was not promoted: loss" in done.stderr
    done = command("search.promote", "m", "--history", cwd=folder)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "version 1  promoted" in done.stdout
    done = command("search.promote", "m", "--rollback", "--max-loss", "1", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_what_is_done_by_hand_is_in_the_history(add: Add) -> None:
    """`--history` would never hear of an alias moved in MLflow, or of a promotion that was killed."""
    for skill in (1.0, 2.0, 3.0):
        add(predictions(skill))
    client = MlflowClient()
    assert promotion.promote("m", version="1").promoted
    client.set_registered_model_alias("m", "champion", "3")
    by_hand = promotion.moves("m")[-1]
    assert (by_hand.version, by_hand.previous, by_hand.kind) == ("3", "1", "by hand")
    assert promotion.rollback("m").version == "1"
    client.delete_registered_model_alias("m", "champion")
    assert promotion.moves("m")[-1].reason.startswith("the alias was removed outside search.promote")
    told = promotion.promote("m", version="2")
    assert told.promoted
    assert told.reason.startswith(
        "version 1 had the alias until it was removed by hand, and it is better than the trivial"
    )
    placed = registry.find("m", "3")
    history.begin(placed, "champion", registry.find("m", "2"), history.PROMOTED, "killed after this", None)
    assert promotion.moves("m")[-1].version == "2", "the alias has not moved"
    registry.move(placed, "champion")
    assert promotion.moves("m")[-1].reason == "killed after this"
    assert promotion.rollback("m").version == "2"


def test_a_dry_run_of_the_champion_says_that_there_is_nothing_to_do(
    add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would say "would be promoted" of a version that is champion already."""
    from search.promote import promote_command

    add(predictions(1.0))
    promotion.promote("m")
    promote_command("m", dry_run=True, max_loss=0.0, min_gain=0.0, alias="champion", reason="")
    assert "nothing to do: version 1 is champion already" in capsys.readouterr().out
