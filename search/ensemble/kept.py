"""Files that averaging needs: what trials gave for the validation rows, and models trained under new seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from search.system import whole

MOST = 50  # trials whose outputs are kept


class Kept:
    """The files, in a folder of the study.

    Args:
        folder: The study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def outputs(self, number: int, seed: int | None = None) -> Path:
        """Return where it is kept what a trial gave, or its training under a new seed."""
        return self._folder / f"outputs-{number:05d}{'' if seed is None else f'-{seed}'}.npz"

    def model(self, number: int, seed: int) -> Path:
        """Return where the model of a training under a new seed is kept."""
        return self._folder / f"again-{number:05d}-{seed}.keras"

    def put(self, number: int, outputs: bytes | None, seed: int | None = None, model: bytes | None = None) -> None:
        """Keep what a trial gave; of a training under a new seed its model too."""
        if seed is not None and model is not None:
            whole.write(self.model(number, seed), model)
        if outputs is not None and (seed is None or model is not None):
            whole.write(self.outputs(number, seed), outputs)

    def seeds(self, number: int) -> Iterator[int]:
        """Yield the seeds of a trial's trainings under new seeds."""
        for path in sorted(self._folder.glob(f"again-{number:05d}-*.keras")):
            seed = int(path.stem.rpartition("-")[2])
            if self.outputs(number, seed).is_file():
                yield seed

    def read(self) -> dict[int, bytes]:
        """Return what trials gave, by their number."""
        found = {}
        for path in sorted(self._folder.glob("outputs-?????.npz")):
            found[int(path.stem.partition("-")[2])] = path.read_bytes()
        return found

    def forget(self, but: Collection[int] = ()) -> None:
        """Remove models of new seeds, and what trials gave but these."""
        for pattern in ("again-*.keras", "outputs-*.npz"):
            for path in self._folder.glob(pattern):
                if path not in {self.outputs(number) for number in but}:
                    path.unlink(missing_ok=True)
