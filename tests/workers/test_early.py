"""What needs no framework is told before it is imported, in milliseconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STUDY = """
name = "early"
metric = "val_loss"
direction = "minimize"
[data]
source = "sklearn:load_wine"
[model]
build = "mlp"
[space]
epochs = { type = "int", low = 1, high = 2 }
"""
USER = """
import keras
from somewhere import *

def build(trial, data):
    return keras.Model()

def rows():
    return [], []
"""
# What is changed in the study, the options, and what is told.
MISTAKES = [
    (
        {"val_loss": "val_acuracy"},
        (),
        "metric: 'val_acuracy' is not among the metrics of this model; did you mean …",
    ),
    ({"load_wine": "load_whine"}, (), "data.source: scikit-learn has no 'load_whine'; did you mean 'load_wine'?"),
    ({"sklearn:load_wine": "user.py:row"}, (), "data.source: user.py has no 'row'; did you mean 'rows'?"),
    ({"mlp": "user.py:biuld"}, (), "model.build: user.py has no 'biuld'; did you mean 'build'?"),
    ({"mlp": "broken.py:build"}, (), "model.build: broken.py cannot be imported (broken.py, line 2: SyntaxError: …"),
    ({"mlp": "no_such_module:build"}, (), "model.build: no_such_module cannot be imported (ModuleNotFoundError: …"),
    (
        {"[space]": '[fit]\ncallbacks = ["EarlyStoping"]\n[space]'},
        (),
        "fit.callbacks[0]: Keras has no 'EarlyStoping'; did you mean 'EarlyStopping'?",
    ),
    (
        {"[space]": '[metrics]\nf2 = { function = "sklearn.metrics:fbeta_scor" }\n[space]'},
        (),
        "metrics.f2.function: sklearn.metrics has no 'fbeta_scor'; did you mean 'fbeta_score'?",
    ),
    (
        {'"sklearn:load_wine"': '"csv:table.csv"\ntarget = "prize"'},
        (),
        "data.target: no column 'prize' in csv:table.csv (it has size, price); did you mean 'price'?",
    ),
    (
        {'"sklearn:load_wine"': '"csv:table.csv"\ntarget = "price"\nsample_weight = "w"'},
        (),
        "data.sample_weight: no column 'w' in csv:table.csv …",
    ),
    ({'"sklearn:load_wine"': '"csv:head.csv"\ntarget = "price"'}, (), "data.source: csv:head.csv has no rows"),
    ({'"sklearn:load_wine"': '"csv:empty.csv"\ntarget = "price"'}, (), "data.source: csv:empty.csv has no rows"),
    (
        {},
        ("--storage", "postgres://ann:s3cret@host/db"),
        "storage postgres://***@host/db: 'postgres' is no kind of store; did you mean 'postgresql'? use …",
    ),
    ({}, ("--storage", "mysql://host/db"), "storage mysql://host/db: write mysql+pymysql://… and pip install pymysql"),
    (
        {},
        ("--tracking-uri", "htp://ann:s3cret@host:5000"),
        "MLflow tracking store htp://***@host:5000: 'htp' is no kind of store; did you mean 'http'? use …",
    ),
    ({}, ("--resume",), "no study to resume: there is no journal studies/early.journal"),
    ({}, ("--resume", "--storage", "sqlite:///no.db"), "no study to resume: there is no database no.db"),
    (
        {},
        ("--resume", "--storage", "searched.journal"),
        "study 'early' has no interrupted search; leave out …",
    ),
    # As far as can be told, these can run.
    ({}, (), "the server is started"),
    ({"mlp": "user.py:build"}, (), "the server is started"),
    ({"mlp": "user.py:what_star_imports"}, (), "the server is started"),
    ({'"sklearn:load_wine"': '"csv:odd.csv"\ntarget = "price"'}, (), "the server is started"),
    ({'"sklearn:load_wine"': '"csv:odd.csv"\ntarget = "x"\noptions = { names = ["x"] }'}, (), "the server is started"),
]
TOLD = """
import io, json, sys
from contextlib import redirect_stderr
from pathlib import Path
from search import run

def start():
    raise SystemExit("the server is started")

run.start_forkserver = start
told = []
for text, options in json.loads(sys.argv[1]):
    Path("early.toml").write_text(text)
    sys.argv[1:] = ["early.toml", *options]
    with redirect_stderr(io.StringIO()) as printed:
        try:
            run.main()
        except SystemExit as ended:
            told.append([ended.code, printed.getvalue()])
print(json.dumps([told, [name for name in ("tensorflow", "keras", "pandas", "sklearn") if name in sys.modules]]))
"""


def test_what_needs_no_framework_is_told_before_it_is_imported(tmp_path: Path) -> None:
    """A misspelt column or a storage that cannot be would be told after the seconds that TensorFlow takes."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "broken.py").write_text("import keras\ndef build(trial, data: pass\n")
    (tmp_path / "table.csv").write_text("size,price\n1,2\n")
    (tmp_path / "odd.csv").write_bytes("größe;price\n1;2\n".encode("cp1252"))
    (tmp_path / "head.csv").write_text("size,price\n\n")
    (tmp_path / "empty.csv").write_text("")
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "searched.journal")))
    optuna.create_study(study_name="early", storage=storage)
    asked = []
    for changes, options, _ in MISTAKES:
        text = STUDY
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        asked.append([text, options])
    done = subprocess.run(
        [sys.executable, "-c", TOLD, json.dumps(asked)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    told, imported = json.loads(done.stdout)
    assert imported == []
    for (changes, _, expected), (status, printed) in zip(MISTAKES, told, strict=True):
        if expected == "the server is started":
            assert (status, printed) == (expected, ""), changes
            continue
        assert status == 2, (expected, status, printed)
        assert len(printed.splitlines()) == 1, printed
        line = printed.removeprefix("error: ").removeprefix("early.toml: ").rstrip()
        assert line.startswith(expected.removesuffix("…").rstrip()), (line, expected)
        assert expected.endswith("…") or line == expected
