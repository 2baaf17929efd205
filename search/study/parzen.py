"""TPE's densities over many trials, by SciPy instead of number by number in Python: the same proposals, sooner.

TPE draws candidates and takes the one whose densities have the best ratio. Drawing is left to Optuna,
so a candidate's values are Optuna's to the last bit; only the ratios may differ, in their last digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MANY = 100  # trials from which importing SciPy is worth while
_OPTUNAS = {name: vars(_truncnorm)[name] for name in ("_log_ndtr", "_ndtr")}


def quicken(sampler: optuna.samplers.TPESampler) -> None:
    """Let this sampler compute its densities faster."""
    sampler._parzen_estimator_cls = _Density  # noqa: SLF001 - Optuna says there that it is made to be replaced


class _Density(_ParzenEstimator):
    """Optuna's density, with SciPy's functions of the normal distribution where there are many trials."""

    def log_pdf(self, samples_dict: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        """Return the logarithm of the density at each candidate, an array of shape (candidates,)."""
        if len(self._mixture_distribution.weights) < _MANY:
            return super().log_pdf(samples_dict)
        with _scipy():
            return super().log_pdf(samples_dict)


@contextmanager
def _scipy() -> Iterator[None]:
    """Let Optuna compute the normal distribution by SciPy inside this block."""
    from scipy import special

    functions = vars(_truncnorm)
    functions.update(_log_ndtr=special.log_ndtr, _ndtr=special.ndtr)
    try:
        yield
    finally:
        functions.update(_OPTUNAS)
