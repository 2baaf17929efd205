"""What decorates a search fails; the search itself does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient

from search.budget import Progress
from search.session import search
from search.studyfile.schema import Definition
from search.studyfile.settings import resolve

Tiny = Callable[..., Definition]


def test_a_plot_that_cannot_be_kept_costs_only_itself(tiny: Tiny, folder: Path) -> None:
    """If this fails, a night's search ends without a registered model because a picture could not be stored."""
    said: list[str] = []

    def spoil(progress: Progress) -> None:
        """Let the place where the table of trials is to go lead nowhere."""
        client = MlflowClient()
        experiment = client.get_experiment_by_name("spoilt")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        for run in runs:
            if "mlflow.parentRunId" not in run.data.tags and progress.state == "complete":
                place = unquote(urlparse(str(run.info.artifact_uri)).path)
                Path(place).mkdir(parents=True, exist_ok=True)
                if not Path(place, "trials.csv").is_symlink():
                    Path(place, "trials.csv").symlink_to(folder / "nowhere" / "trials.csv")

    settings = resolve(tiny("spoilt"), n_trials=2, workers=1, tracking_uri=f"sqlite:///{folder}/mlflow.db")
    outcome = search(settings, spoil, said.append)
    assert [
        line for line in said if line.startswith("the table and the plots could not be added to the search's run: ")
    ]
    assert outcome.model is not None
    assert not outcome.unregistered
    run = MlflowClient().get_run(outcome.search_run_id)
    assert run.info.status == "FINISHED"
