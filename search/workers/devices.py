"""The devices that a trial trains on where it is given several, `[fit] gpus`: Keras's model, mirrored on each.

Nothing is done for a trial on one device, which the frameworks choose by themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from search.studyfile.schema import Definition

if TYPE_CHECKING:
    import tensorflow as tf

# JAX's own way to have several devices without a GPU; TensorFlow, which reads the same variable, has no flag for it.
_VIRTUAL = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def _virtual() -> int:
    """Return into how many devices the processor is to be divided; 0 where nobody asked for it."""
    asked = _VIRTUAL.search(os.environ.get("XLA_FLAGS", ""))
    return int(asked[1]) if asked else 0


def operations_at_once() -> int:
    """Return how many operations TensorFlow may begin at a time: one, or one on each device and one more.

    What devices exchange waits for all of them: with fewer threads than devices it would wait for ever.
    """
    import tensorflow as tf

    count = len(tf.config.list_physical_devices("GPU")) or _virtual()
    return count + 1 if count > 1 else 1


def make_virtual() -> None:
    """Divide the processor into as many devices as `XLA_FLAGS` asks for, in a process that has run nothing yet."""
    import tensorflow as tf

    count = _virtual()
    if not count or tf.config.list_physical_devices("GPU"):
        return
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)


def check_devices(definition: Definition) -> None:
    """Refuse more GPUs than this process sees, and a backend that cannot share a trial out among them.

    Raises:
        StudyFileError: Says how many there are.
    """
    import keras

    wanted, backend = definition.fit.gpus, keras.backend.backend()
    if wanted == 1:
        return
    if backend != "tensorflow":
        raise definition.wrong(
            "fit.gpus",
            f"{wanted} with KERAS_BACKEND={backend}",
            "several GPUs are used with TensorFlow alone; leave one of the two out",
        )
    there = _devices()
    if len(there) < wanted:
        seen = f"{len(there)} GPU{'s' * (len(there) != 1)}" if there else "no GPU"
        raise definition.wrong("fit.gpus", f"{wanted}, and a worker here sees {seen}", "use fewer, or leave it out")


@contextmanager
def spread(definition: Definition) -> Iterator[None]:
    """Build and train inside this block on the study's number of devices: each batch is shared out among them."""
    if definition.fit.gpus == 1:
        yield
        return
    check_devices(definition)
    with _mirrored(definition.fit.gpus).scope():
        yield


@cache
def _mirrored(count: int) -> tf.distribute.Strategy:
    """Return the one strategy of this process: those of two would number what devices exchange alike, and mix it up."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(_devices()[:count])


def _devices() -> list[str]:
    """Return the names of the GPUs, or of the processor's parts where it was divided."""
    import tensorflow as tf

    found = [each.name for each in tf.config.list_logical_devices("GPU")]
    if found or not _virtual():
        return found
    return [each.name for each in tf.config.list_logical_devices("CPU")]
