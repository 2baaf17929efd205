"""What a person reads in the terminal: whole numbers, lines that fit, no colour where none is wanted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from search.budget import Counts, Progress, Stage
from search.data.summary import DataSummary
from search.handover.outcome import Outcome
from search.register import Best
from search.stopping import INTERRUPTED
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.system.outbox import Left
from search.terminal import Display
from search.tracking.pages.outcomes import Failures
from search.tracking.registry import Registered

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|4[0-9]|9[0-9])(?:;[0-9]+)*m")
URL = "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=search"
SPACE = {
    "batch_size": 16,
    "width": 253,
    "depth": 3,
    "dropout": 0.123456789,
    "learning_rate": 1.23456e-05,
    "weight_decay": 4.56789e-06,
    "activation": "tanh",
    "optimizer": "rmsprop",
}


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    path = tmp_path / "eight.toml"
    path.write_text(
        "name = 'eight'\nmetric = 'val_loss'\ndirection = 'minimize'\n[data]\nsource = 'sklearn:load_wine'\n"
        "[fit]\nepochs = 1\n[space]\nwidth = { type = 'int', low = 1, high = 300 }\n"
    )
    return load_definition(path)


def best(number: int) -> Best:
    params = {**SPACE, "width": 253 + number, "dropout": 0.123456789 * (number + 1), "optimizer": f"adam{number}"}
    return Best(number, (1.70051e-05 * (number + 1),), params, "", {"test_loss": 0.1 + number, "test_accuracy": 1.0})


def outcome(**changed: object) -> Outcome:
    data = DataSummary("d", "s", "x", "binary", (0, 1), {}, (), (), None, (), (), "whole epochs", 0.1)
    done = Outcome(
        study="eight",
        experiment_id="1",
        search_run_id="r",
        n_trials={"complete": 5, "pruned": 1, "failed": 7},
        died=0,
        best=best(0),
        front=(),
        model=Registered("eight", "1", ("challenger",)),
        newly_registered=True,
        stopped="",
        seconds=12.34,
        workers="2 workers (one for each of 2 cores), 1 thread each",
        data=data,
        table=tuple(best(number) for number in range(5)),
        url=URL,
        serve="mlflow ui",
        arguments="eight",
        resume="python -m search.run eight --resume",
        failures=(Failures("ValueError: width 300 is too wide", (3, 4, 5, 6, 7, 8, 9)),),
        saved="1 trial pruned: 10 epochs not trained, about 3 s of one worker's time saved",
    )
    return replace(done, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_is_cut_and_every_line_fits(
    width: int, definition: Definition, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person would read `0.98…` under `filt…`, or a table broken over three lines."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    Display(definition, silent=False).outcome(outcome())
    printed = ANSI.sub("", capsys.readouterr().out)
    assert "…" not in printed.replace("(3, 4, 5, 6, 7, …)", "")
    copied = [line for line in printed.splitlines() if URL in line]
    assert copied == [f"  {URL}"]
    assert [line for line in printed.splitlines() if len(line) > width and line not in copied] == []
    assert "  val_loss       1.7005e-05\n" in printed
    assert "  learning_rate  1.2346e-05\n" in printed, "the best trial has every parameter"
    assert re.search(r"^trial +val_loss ", printed, re.MULTILINE)
    table = printed.partition("The 5 best:")[2].partition("Next:")[0]
    header = table.splitlines()[1]
    left_out = [name for name in ("val_loss", "test_loss", "width", "dropout", "optimizer") if name not in header]
    if left_out:
        assert f"too narrow: {', '.join(left_out)}" in " ".join(table.split())
    assert ("too narrow" in table) == bool(left_out)
    assert "batch_size" not in header, "what is the same in all needs no column"


def test_a_file_gets_everything_and_no_colour(definition: Definition, capsys: pytest.CaptureFixture[str]) -> None:
    """A log would hold escape sequences, or tables cut for a terminal that is not there."""
    Display(definition, silent=False).outcome(outcome())
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "too narrow" not in printed
    assert re.search(r"trial +val_loss +test_loss +width +dropout +optimizer\n", printed)
    assert "Failed: 7 trials (3, 4, 5, 6, 7, …): ValueError: width 300 is too wide\n" in printed


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_only_where_it_is_wanted(
    no_color: str,
    coloured: bool,
    definition: Definition,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever sets NO_COLOR would be shown colours all the same."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    Display(definition, silent=False).outcome(outcome())
    assert bool(COLOUR.search(capsys.readouterr().out)) == coloured


def test_texts_of_others_are_shown_as_they_are(definition: Definition, capsys: pytest.CaptureFixture[str]) -> None:
    """A reason with `[/job:localhost]` would end the command, and words in brackets vanish."""
    reason = "no device [/job:localhost/replica:0] for [age] [bold]x[/bold]"
    told = outcome(failures=(Failures(reason, (3,)),), unregistered="[red] gone", model=None)
    Display(definition, silent=False).outcome(told)
    printed = " ".join(capsys.readouterr().out.split())
    assert reason in printed
    assert "[red] gone" in printed


def test_what_is_not_in_mlflow_is_said_with_the_line_that_sends_it(
    definition: Definition, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person would look for trials that MLflow does not have, and not know how to get them there."""
    offline = outcome(model=None, newly_registered=False, url="", serve="", not_mirrored=Left((0, 1), 90.0))
    Display(definition, silent=False).outcome(offline)
    printed = capsys.readouterr().out
    assert "MLflow does not show 2 trials of this search yet; search.sync takes about 1:30 for them." in printed
    assert "  python -m search.sync eight\n" in printed
    assert "mlflow ui" not in printed
    assert "search.promote" not in printed


def test_a_search_that_waits_for_mlflow_says_how_far_it_is(
    definition: Definition, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute without a word would look like a search that hangs; a log would hold the same line 300 times."""
    for live in ("1", ""):
        monkeypatch.setenv("FORCE_COLOR", live)
        display = Display(definition, silent=False)
        with display:
            for done in range(3):
                display.say(Stage("writing the trials to MLflow", done, 40, 8.0))
            if live:
                assert any("writing the trials to MLflow:  2/40" in line for line in display._lines(80))
                assert any("0:08 left" in line for line in display._lines(80))
    assert capsys.readouterr().err.count("eight: writing the trials to MLflow\n") == 1


def test_what_is_champion_already_is_not_offered_for_promotion(
    definition: Definition, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person would promote, and be told that there is nothing to do."""
    for champion, offered in ((False, True), (True, False)):
        model = Registered("eight", "1", ("challenger", "champion") if champion else ("challenger",))
        Display(definition, silent=False).outcome(outcome(model=model, newly_registered=False))
        assert ("search.promote" in capsys.readouterr().out) == offered


def test_why_nothing_was_registered_is_said(definition: Definition, capsys: pytest.CaptureFixture[str]) -> None:
    """A search that lost its model to a server that went away would look like any other."""
    Display(definition, silent=False).outcome(outcome(model=None, unregistered="MLflow went away"))
    printed = capsys.readouterr().out
    assert "The best trial's model is not registered: MLflow went away" in printed
    assert "python -m search.sync eight" in printed


@pytest.mark.parametrize("total", [20, 100_000])
def test_a_trials_line_fits_eighty_columns(
    total: int, definition: Definition, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log in a window of 80 columns would break every line."""
    display = Display(definition, silent=False)
    for state in ("began", "complete"):
        counts = Counts(complete=total - 1)
        display.progress(
            Progress(total - 1, state, 1.23456789e-05, 7, 1.2345678e-05, total - 1, total, 3661.0, "", counts)
        )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"[{total - 1}/{total}] trial {total - 1} complete 1.2346e-05; best 1.2346e-05 (trial 7)")
    assert len(line) <= 80


def test_of_several_metrics_each_is_named_and_the_rule_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person would see one of two values, and not know why this trial is registered and not another."""
    path = tmp_path / "two.toml"
    path.write_text(
        "name = 'two'\nmetric = ['val_loss', 'parameters']\ndirection = ['minimize', 'minimize']\n"
        "[data]\nsource = 'sklearn:load_wine'\n[fit]\nepochs = 1\n"
        "[space]\nwidth = { type = 'int', low = 1, high = 300 }\n"
    )
    display = Display(load_definition(path), silent=False)
    done = Progress(4, "complete", 0.25, 3, 0.5, 2, 20, 60.0, values=(0.25, 81.0), best_values=(0.5, 9.0))
    display.progress(done)
    told = capsys.readouterr().err
    assert "trial 4 complete val_loss 0.25, parameters 81; best 0.5, 9 (trial 3)" in told
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    display = Display(load_definition(path), silent=False)
    with display:
        display.progress(replace(done, state="training", metrics={"val_loss": 0.125, "f2": 1.0}, epoch=1, epochs=2))
    assert "trial 4, epoch 1 of 2, val_loss 0.125, f2 1, 0:0" in ANSI.sub("", capsys.readouterr().err)
    table = tuple(replace(best(number), values=(0.5, 9.0 + number)) for number in range(3))
    display.outcome(outcome(best=table[0], table=table, front=(0, 2, 7)))
    printed = " ".join(ANSI.sub("", capsys.readouterr().out).split())
    assert "Trial 0 is of the 3 on the Pareto front the nearest to the ideal point." in printed
    assert "trial on the front" in printed
    assert "0 yes 9" in printed
    assert (
        "Registered trial 0, of the 3 on the Pareto front the nearest to the ideal point, as models:/eight/1" in printed
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_shows_each_worker_while_it_trains(
    width: int, definition: Definition, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person would wait for an hour's trial without seeing whether it learns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    display = Display(definition, silent=False)
    with display:
        display.say(
            Stage("2 workers (one for each of 2 cores), 1 thread each; loading the data and building the model")
        )
        display.say("1797 rows (1149 training, 288 validation); always answering '1' has accuracy 0.101 on validation")
        began = Progress(7, "began", None, 3, 0.5, 2, 20, 60.0, counts=Counts(complete=1, pruned=1))
        display.progress(began)
        display.progress(replace(began, number=8))
        display.progress(replace(began, state="training", value=0.123456789, epoch=12, epochs=30))
        display.progress(
            replace(began, number=6, state="failed", reason="depth 4 with width 247 and no room does not fit")
        )
        display.say(Stage("drawing"))
    lines = [line.strip() for line in ANSI.sub("", capsys.readouterr().err).replace("\r", "\n").splitlines()]
    assert [line for line in lines if len(line) > width] == []
    said = " ".join(" ".join(lines).split())
    assert "1 thread each; loading the data and building the model" in said, "the stage of start-up is shown whole"
    assert "eight: 1797 rows (1149 training, 288 validation); always answering '1' has accuracy 0.101 on val" in said
    assert "trial 6 failed: depth 4 with width 247 and no room does not fit" in said
    assert any(re.fullmatch(r"trial 7, epoch 12 of 30, val_loss 0.12346, 0:\d\d", line) for line in lines)
    assert any(re.fullmatch(r"trial 8, 0:\d\d", line) for line in lines)
    assert "1 complete, 1 pruned, 0 failed; best 0.5 (trial 3)" in lines
    assert any("1:00 left" in line and "trials a minute" in line for line in lines)


def test_an_interrupted_search_ends_with_what_was_done_and_the_command_that_goes_on(
    definition: Definition, capsys: pytest.CaptureFixture[str]
) -> None:
    """After Ctrl-C a person would not know what is kept, nor how to go on."""
    Display(definition, silent=False).outcome(outcome(stopped=INTERRUPTED))
    printed = capsys.readouterr().out
    assert "Interrupted: everything finished so far is kept.\n" in printed
    assert "  python -m search.run eight --resume\n" in printed
