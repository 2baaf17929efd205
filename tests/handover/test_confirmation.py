"""The best of many trials is partly luck: the leading ones are trained again, and the best on average counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient

from search.data.loading import TrialData
from search.handover.confirmation import planned
from search.register import Best, luck
from search.study import attributes, ranking
from search.study.attributes import Confirmed
from search.studyfile.schema import Definition
from tests.conftest import Searcher
from tests.studyfiles import definition


def test_the_budget_pays_for_two_finalists_at_least_and_ten_seeds_at_most() -> None:
    """A share of the search's time would be no bound; or one finalist would have nothing to be compared with."""
    seconds = [10.0, 12.0, 8.0, 11.0]
    assert planned(seconds, 1.0) == (2, 1), "once each, whatever it costs"
    assert planned(seconds, 30.0) == (3, 1)
    assert planned(seconds, 65.0) == (3, 2)
    assert planned(seconds, 1e6) == (3, 10)
    assert planned([0.0, 0.0], 0.1) == (3, 1)


def test_the_best_on_average_leads_until_a_later_trial_does() -> None:
    """The lucky one would be registered all the same; or a better one found later would not be."""
    wanted, study = definition(), optuna.create_study()
    for value in (0.1, 0.2, 0.3):
        study.add_trial(optuna.trial.create_trial(value=value))
    attributes.set_confirmed(study, {0: Confirmed((0.4, 0.5)), 1: Confirmed((0.2, 0.3)), 2: Confirmed((0.1,))})
    assert [trial.number for trial in ranking.leading_trials(wanted, study)] == [1, 0, 2]
    study.add_trial(optuna.trial.create_trial(value=0.05))
    assert ranking.leading_trials(wanted, study)[0].number == 3
    attributes.set_confirmed(study, {3: Confirmed((0.4,))})
    assert list(attributes.confirmed_of(study)) == [3]


def test_how_much_was_luck_is_said_in_a_sentence() -> None:
    """A reader of the version would take the first score for what the model reaches."""
    best = Best(0, (0.05,), {}, "", {}, Confirmed((0.08, 0.10)))
    assert luck(definition(), best).endswith("reaches 0.09 ± 0.014 on average: 0.04 of the first value was luck.")
    assert luck(definition(), Best(0, (0.2,), {}, "", {}, Confirmed((0.1,)))).endswith(
        "nothing of the first value was luck."
    )
    assert luck(definition(), Best(0, (0.2,), {}, "", {})) == ""


def test_new_folds_leave_the_test_part(tmp_path: Path) -> None:
    """A configuration would be confirmed on the rows it was chosen by; or on rows that nobody may choose by."""
    folded = definition({"data.folds": 3}, folder=tmp_path)
    first, again = TrialData(folded).same, TrialData(folded, fold_seed=7).same
    assert first is not None
    assert again is not None
    assert np.array_equal(first.test.y, again.test.y)  # type: ignore[union-attr]
    assert not all(np.array_equal(one[1], other[1]) for one, other in zip(first.folds, again.folds, strict=True))


NOISE = """
import numpy as np
def data():
    draw = np.random.default_rng(3)
    return draw.normal(size=(150, 4)).astype("float32"), draw.integers(0, 2, 150)
"""


@pytest.mark.heavy
def test_luck_on_labels_of_noise_is_found_out(
    folder: Path, tiny: Callable[..., Definition], run_search: Searcher
) -> None:
    """A model that learned nothing would be handed over with the score of the luckiest of many."""
    tiny()
    (folder / "studies" / "noise.py").write_text(NOISE)
    text = (folder / "studies" / "tiny.toml").read_text()
    text = text.replace('"sklearn:make_blobs"', '"noise.py:data"').replace('"val_loss"', '"val_binary_accuracy"')
    text = text.replace('"minimize"', '"maximize"').replace(text[text.index("options") : text.index("test_size")], "")
    (folder / "studies" / "tiny.toml").write_text(text)
    from search.studyfile.load import load_definition

    outcome = run_search(load_definition(folder / "studies" / "tiny.toml"), n_trials=8, confirm=2.0)
    best = outcome.best
    assert best.confirmed is not None
    assert len(best.confirmed.values) >= 2
    searched = max(each.value for each in outcome.table)
    assert searched > 0.55
    assert best.confirmed.mean < searched
    printed: dict[str, Any] = outcome.as_json()["best"]["confirmed"]
    assert printed == {"mean": best.confirmed.mean, "std": best.confirmed.std, "seeds": len(best.confirmed.values)}
    client = MlflowClient()
    version = client.get_model_version_by_alias("tiny", "challenger")
    assert version.tags["trial"] == str(best.number)
    assert "under" in version.description
    assert "of the first value was luck" in version.description
    run = client.get_run(best.run_id)
    assert run.data.metrics["confirmed_mean"] == pytest.approx(best.confirmed.mean)
    under = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{best.run_id}'")
    assert sorted(each.data.tags["seed"] for each in under) == sorted(map(str, best.confirmed.seeds))
    from search.tracking import agreement

    study = optuna.load_study(study_name="tiny", storage=_journal(folder))
    assert agreement.differences(load_definition(folder / "studies" / "tiny.toml"), study) == []


def _journal(folder: Path) -> optuna.storages.JournalStorage:
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / "studies" / "tiny.journal")))
