"""What version 0.1 left in a project's folder.

The archive holds the files of commit 38f594a after `search.run -n 3`, `search.promote --force` and a
`search.run -n 3 --offline` that was killed in its second trial: journal, spool, model and MLflow's database as SQL.
Placeholders stand for its folder and its host.
"""

from __future__ import annotations

import socket
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

WRITTEN = Path(__file__).parent / "version-0.1.tar.xz"


def unpack(folder: Path, *, killed: bool = False) -> Path:
    """Unpack it into a folder, as if it had been written there on this machine.

    Args:
        folder: Where it goes.
        killed: Whether the last search is still noted as running; each command then watches it for a minute.
    """
    folder.mkdir(exist_ok=True)
    with tarfile.open(WRITTEN) as archive:
        archive.extractall(folder, filter="data")
    sql = folder / "mlflow.sql"
    for path in (sql, folder / "studies" / "kept.journal", *folder.rglob("MLmodel")):
        text = path.read_text(encoding="utf-8").replace("@FOLDER@", str(folder))
        text = text if killed else text.replace('"state":"running"', '"state":"interrupted"')
        path.write_text(text.replace("@HOST@", socket.gethostname()), encoding="utf-8")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.executescript(sql.read_text(encoding="utf-8"))
    sql.unlink()
    return folder
