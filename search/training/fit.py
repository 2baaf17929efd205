"""The training loop: Keras's own `fit` without the per-batch overhead.

A model whose data are arrays in memory and whose training step is Keras's own is trained by whole
epochs: one graph call an epoch runs Keras's `train_step` on every batch (5–10 ms an epoch where
`fit` on arrays takes 100). Losses equal those of `fit` on the same order of batches to the last bit. The
order is drawn from the trial's seed alone, so a trial gives the same losses on every worker.

Everything else uses ordinary `fit`; the trial's result says which: callbacks that watch batches, and models with a
`compute_metrics` of their own, get batches in the same order; a model with a step of its own, a stream, several
devices, and any backend but TensorFlow get plain `fit`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.outputs import fixed_rows
from search.data import mapped, streams
from search.data.dataset import Data, Part
from search.data.preprocessing import leaves, take
from search.studyfile.references import overrides
from search.training import whole_epochs
from search.training.epochs import numbers
from search.training.whole_epochs import Rows

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from numpy.typing import NDArray

WHOLE_EPOCHS, BATCHES, PLAIN = "whole epochs", "batches", "ordinary fit"
REUSED = f"{WHOLE_EPOCHS}, traced before"
_OWN = ("train_step", "test_step", "fit", "evaluate", "make_train_function", "make_test_function")
_BATCH_HOOKS = tuple(f"on_{kind}batch_{when}" for kind in ("train_", "test_", "") for when in ("begin", "end"))
_AS_THEY_ARE = ("float16", "float32", "int32", "int64", "uint8")  # what DLPack and TensorFlow both know
_DRY_ROWS = 7  # not a power of 2: a model of as many outputs would seem to fit
# A batch of validation or test data: at most so many rows, and bytes of inputs and of the largest layer's output.
_MOST_ROWS, _FEWEST_ROWS, _HELD_OUT_BYTES = 4096, 32, 2**25
_UNKNOWN_LAYERS = 32  # times the bytes of its input that a layer may give whose output Keras does not tell


def path_of(model: keras.Model, data: Data, callbacks: Sequence[keras.callbacks.Callback] = ()) -> str:
    """Return how `fit` trains this model: by `whole epochs`, by `batches`, or by `ordinary fit`."""
    import keras

    own_step = overrides(model, keras.Model, *_OWN)
    streamed = data.train.streamed or (data.validation is not None and data.validation.streamed)
    if keras.backend.backend() != "tensorflow" or own_step or streamed or model.run_eagerly or model.optimizer is None:
        return PLAIN
    if not any(map(_sees_batches, callbacks)) and not overrides(model, keras.Model, "compute_metrics"):
        return PLAIN if devices() > 1 else WHOLE_EPOCHS
    return PLAIN if devices() > 1 or model.steps_per_execution != 1 else BATCHES


def ensure_built(model: keras.Model, data: Data) -> None:
    """Create the weights of a model that was made without an input shape; the number of rows stays open."""
    import keras

    if not model.built:
        example = as_tensors(data.example(1))
        with suppress(Exception):  # a model of models, that its own training step calls; `fit` tells what is wrong
            if isinstance(model, keras.Sequential) and hasattr(example, "shape"):
                model.build((None, *example.shape[1:]))
            model(example)


def log_names(model: keras.Model, data: Data, class_weight: Mapping[int, float] | None = None) -> tuple[str, ...]:
    """Run one small batch through the model, and return every name it will log, validation's too.

    The model may be trained by it: throw it away. Class weights reach a step of its own as weights of the rows.
    """
    import keras

    rows = fixed_rows(model) or _DRY_ROWS * devices()
    few = Part(data.example(rows), data.example_targets(rows), take(data.train.sample_weight, slice(0, rows)))
    if path_of(model, data) == PLAIN:
        return _plain_log_names(model, data, few, class_weight)
    x, y, weights = keras.utils.unpack_x_y_sample_weight(packed(few))
    predicted = model(x)
    model.compute_loss(x, y, predicted, weights)
    names = model.compute_metrics(x, y, predicted, weights)
    return (*names, *(f"val_{name}" for name in names))


def _plain_log_names(
    model: keras.Model, data: Data, few: Part, class_weight: Mapping[int, float] | None
) -> tuple[str, ...]:
    """Return the names that `fit` logs for a model with a training step of its own.

    Of a stream it gets the first batch as it is: a step of the user's own may take what is no (x, y).
    """
    import keras

    def one_batch() -> Part:
        stream = data.train.x
        return Part(streams.head(stream), None) if data.train.streamed and not data.spent_by_reading else few

    logged: dict[str, Any] = {}
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logged.update(logs))  # noqa: ARG005
    small = replace(data, train=one_batch(), validation=one_batch() if data.validation is not None else None)
    steps = {"steps_per_epoch": 1, "validation_steps": 1} if small.train.streamed else {}
    settings: dict[str, Any] = {"epochs": 1, "callbacks": [note], "verbose": 0, **steps}
    _fit_plainly(model, small, _DRY_ROWS * devices(), class_weight, settings)
    held_out = {} if data.validation is data.test is None else evaluate(model, one_batch(), steps=1)
    return tuple(dict.fromkeys((*logged, *held_out, *(f"val_{name}" for name in held_out))))


def can_evaluate(model: keras.Model) -> bool:
    """Return whether `evaluate` works: a model that has a training step of its own may have no outputs or no loss."""
    import keras

    loss = model.loss is not None or bool(model.losses) or overrides(model, keras.Model, "compute_loss")
    if overrides(model, keras.Model, "test_step", "evaluate", "make_test_function"):
        return True
    return loss and overrides(model, keras.Model, "call")


def first_rows(model: keras.Model, data: Data) -> Any:
    """Return the first training row as tensors, or as many as the model takes at once."""
    return as_tensors(data.example(fixed_rows(model) or 1))


def fit(
    model: keras.Model,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback],
    class_weight: Mapping[int, float] | None = None,
    shuffle: bool = True,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_freq: int = 1,
    built_in: bool = False,
    on_path: Callable[[str], None] = lambda _: None,
) -> None:
    """Train the model.

    Args:
        model: Compiled; its weights change.
        data: Its training and validation parts.
        epochs: How often every training row is seen.
        batch_size: Rows in a batch; the last batch of an epoch may have fewer.
        seed: Decides the order of the rows.
        callbacks: Keras callbacks.
        class_weight: A weight for each class index.
        shuffle: Whether each epoch has an order of its own; else the rows come as they are.
        steps_per_epoch: Batches in an epoch; needed for a stream without end.
        validation_steps: Batches of the validation part; needed for a stream without end.
        validation_freq: After how many epochs the validation part is measured each time.
        built_in: Whether the whole model is made by this package, and no code of the user's reaches it.
        on_path: Called with how the model is trained, a path or `REUSED`, when that is known.
    """
    path = path_of(model, data, callbacks) if steps_per_epoch is validation_steps is None else PLAIN
    settings: dict[str, Any] = {"epochs": epochs, "callbacks": list(callbacks), "verbose": 0}
    settings |= {"validation_freq": validation_freq}
    if path == PLAIN:
        on_path(path)
        settings |= {"shuffle": shuffle, "steps_per_epoch": steps_per_epoch, "validation_steps": validation_steps}
        _fit_plainly(model, data, batch_size, class_weight, settings)
        return
    train, validation = data.train, data.validation
    tensors, orders = _tensors(train, _weights_of_rows(data, class_weight)), _Orders(_rows(train), seed, shuffle)
    followed = [orders.follower(), *callbacks]
    if path == WHOLE_EPOCHS:
        whole_epochs.fit_whole_epochs(
            model,
            Rows(tensors, _rows(train), batch_size),
            None if validation is None else _held_out(model, validation, None if built_in else batch_size),
            orders.next,
            followed,
            epochs=epochs,
            validation_freq=validation_freq,
            shared=built_in,
            on_traced=lambda reused: on_path(REUSED if reused else path),
        )
        return
    on_path(path)
    settings |= {"callbacks": followed, "shuffle": False}  # the rows come shuffled; Keras would warn that it cannot
    if validation is not None:
        settings["validation_data"], settings["validation_steps"] = _in_order(model, validation, batch_size)
    steps = -(-_rows(train) // batch_size)
    model.fit(_batches(tensors, orders, batch_size), steps_per_epoch=steps, **settings)


def _fit_plainly(
    model: keras.Model,
    data: Data,
    batch_size: int,
    class_weight: Mapping[int, float] | None,
    settings: dict[str, Any],
) -> None:
    """Fit as Keras does by itself, on arrays or a stream."""
    import keras

    if model.loss is None and not model.losses:
        with suppress(Exception):  # losses that layers add are known once the model was called
            model(first_rows(model, data))
    train, validation = data.train, data.validation if can_evaluate(model) else None
    by_class = None if train.streamed else _weights_of_rows(data, class_weight)
    over = 0 if train.streamed else _rows(train) % devices()
    if over:
        train, by_class = train.take(slice(0, -over)), None if by_class is None else by_class[:-over]
    if validation is not None:
        if not validation.streamed and devices() > 1:
            settings["validation_batch_size"] = _shared_out(_rows(validation), batch_size)
        settings["validation_data"] = validation.x if validation.streamed else packed(validation)
    if train.streamed:
        settings["shuffle"] = settings.get("shuffle", True) and isinstance(train.x, keras.utils.PyDataset)
        model.fit(train.x, class_weight=class_weight, **settings)
        return
    settings["batch_size"] = batch_size
    x, y, weight = (*packed(train, by_class), None, None)[:3]
    model.fit(x, y, sample_weight=weight, **settings)


def evaluate(
    model: keras.Model, part: Part, batch_size: int | None = None, *, steps: int | None = None
) -> dict[str, float]:
    """Return the model's loss and metrics on a part, by their Keras names; none where it cannot be evaluated.

    With arrays it uses the test function that validation has traced already.

    Args:
        model: Compiled.
        part: What to evaluate it on.
        batch_size: Rows in a batch of arrays. None for as many as memory allows: right for a model whose loss and
            metrics are means over rows.
        steps: How many batches are read of a stream that has no end.
    """
    import keras

    if not can_evaluate(model):
        return {}
    if part.streamed:
        logs = model.evaluate(part.x, steps=steps, verbose=0, return_dict=True)
    elif keras.backend.backend() == "tensorflow":
        dataset, count = _in_order(model, part, batch_size)
        # With several steps an execution Keras reads more than `steps` of a dataset without end.
        logs = model.evaluate(dataset.take(count), steps=count, verbose=0, return_dict=True)
    else:
        x, y, weight = (*packed(part), None, None)[:3]
        logs = model.evaluate(x, y, batch_size, sample_weight=weight, verbose=0, return_dict=True)
    return numbers(logs)


def as_tensors(x: Any) -> Any:
    """Return arrays as Keras takes them: numbers in single precision, texts as TensorFlow's strings.

    Where one is text all become tensors: Keras takes no mixture.
    """
    import keras

    x = keras.tree.map_structure(
        lambda array: mapped.in_single_precision(array) if array.dtype == np.float64 else array,
        keras.tree.lists_to_tuples(x),
    )
    if not any(array.dtype.kind in "USO" for array in keras.tree.flatten(x)):
        return x
    import tensorflow as tf

    return keras.tree.map_structure(tf.convert_to_tensor, x)


class _Orders:
    """The order of the training rows in each epoch, drawn from the trial's seed alone."""

    def __init__(self, rows: int, seed: int, shuffle: bool) -> None:
        self._order, self._shuffle = np.arange(rows), shuffle
        self._generator, self._drawn, self._epoch = np.random.default_rng(seed), 0, 0

    def follower(self) -> keras.callbacks.Callback:
        """Return a callback that notes the current epoch: a resumed trial begins at a later one."""
        import keras

        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: setattr(self, "_epoch", epoch))

    def next(self) -> NDArray[np.int32]:
        """Return the order of the epoch that has begun."""
        return self._of(self._epoch)

    def endless(self) -> Iterator[NDArray[np.int32]]:
        """Yield the orders of the current and all later epochs."""
        yield from map(self._of, itertools.count(self._epoch))

    def _of(self, epoch: int) -> NDArray[np.int32]:
        while self._shuffle and self._drawn <= epoch:
            self._order = self._generator.permutation(len(self._order))
            self._drawn += 1
        return self._order.astype("int32")


def _weights_of_rows(data: Data, class_weight: Mapping[int, float] | None) -> NDArray[Any] | None:
    """Return the weight of each training row by its class; None when all classes count alike."""
    if class_weight is None:
        return None
    of_classes = np.array([class_weight[index] for index in range(len(class_weight))], "float32")
    return np.asarray(of_classes[data.class_indices(data.train)])


def packed(part: Part, by_class: NDArray[Any] | None = None) -> tuple[Any, ...]:
    """Return a part's arrays as Keras's steps are given them: (x,), (x, y) or (x, y, weights of the rows)."""
    if part.y is None:
        return (as_tensors(part.x),)
    weight = None if part.sample_weight is None else as_tensors(part.sample_weight)
    if by_class is not None:
        weight = by_class if weight is None else by_class * np.asarray(weight).reshape(-1)
    both = (as_tensors(part.x), as_tensors(part.y))
    return both if weight is None else (*both, weight)


def _tensors(part: Part, by_class: NDArray[Any] | None = None) -> Any:
    """Return a part's arrays as tensors, packed as Keras's steps are given them."""
    import keras

    return keras.tree.map_structure(_tensor, packed(part, by_class))


def _tensor(array: Any) -> tf.Tensor:
    """Return an array as a tensor, without a copy where workers share it and TensorFlow computes in main memory."""
    import tensorflow as tf

    fits = mapped.is_mapped(array) and array.dtype.name in _AS_THEY_ARE and array.flags.c_contiguous
    if fits and not tf.config.list_logical_devices("GPU"):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


def devices() -> int:
    """Return the number of devices that share each batch."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _shared_out(rows: int, most: int) -> int:
    """Return the largest batch size up to `most` that devices share equally, with rows of the last batch for all."""
    sizes = (size for size in range(min(most, rows), 0, -1) if size % devices() == 0)
    return next((size for size in sizes if rows % size == 0 or rows % size >= devices()), min(most, rows))


def _rows(part: Part) -> int:
    return len(leaves(part.x)[0])


def _batches(tensors: Any, orders_of: _Orders, batch_size: int) -> tf.data.Dataset:
    """Return endless epochs of batches, in the same orders as by whole epochs."""
    import keras
    import tensorflow as tf

    orders = tf.data.Dataset.from_generator(orders_of.endless, output_signature=tf.TensorSpec([None], tf.int32))
    indices = orders.flat_map(lambda order: tf.data.Dataset.from_tensor_slices(order).batch(batch_size))
    return _plain_pipeline(
        indices.map(lambda index: keras.tree.map_structure(lambda tensor: tf.gather(tensor, index), tensors))
    )


def _in_order(model: keras.Model, part: Part, batch_size: int | None) -> tuple[tf.data.Dataset, int]:
    """Return the rows in order without end, and how many batches are one pass.

    The batch axis stays unknown to the graph, so that one traced test function serves every part. A step of the user's
    own gets inputs without targets as `fit` gives them: alone.
    """
    import keras
    import tensorflow as tf

    held_out = _held_out(model, part, batch_size)
    alone = len(held_out.tensors) == 1 and overrides(model, keras.Model, *_OWN)
    tensors = keras.utils.pack_x_y_sample_weight(*held_out.tensors) if alone else held_out.tensors
    dataset = tf.data.Dataset.from_tensor_slices(tensors).batch(held_out.batch_size).repeat()
    return _plain_pipeline(dataset), -(-held_out.count // held_out.batch_size)


def _held_out(model: keras.Model, part: Part, batch_size: int | None) -> Rows:
    rows = _rows(part)
    return Rows(_tensors(part), rows, _shared_out(rows, batch_size or held_out_rows(model, part)))


def held_out_rows(model: keras.Model, part: Part) -> int:
    """Return how many rows of validation or test data go through the model at once; their memory is bounded."""
    import keras

    fixed, has_states = fixed_rows(model), any(getattr(layer, "stateful", False) for layer in model.layers)
    if fixed and (has_states or not isinstance(model, keras.Sequential)):  # which names the rows of its first call
        return fixed
    arrays = list(map(np.asarray, leaves(part.x)))
    row = sum(math.prod(array.shape[1:]) * max(4, array.dtype.itemsize) for array in arrays)
    # For sizes that a model leaves open.
    longest = max((size for array in arrays for size in array.shape[1:]), default=1)
    outputs = [4 * math.prod(size or longest for size in shape[1:]) for shape in _output_shapes(model)]
    needed = row + 2 * max(outputs, default=_UNKNOWN_LAYERS * row)
    return max(_FEWEST_ROWS, min(_MOST_ROWS, _HELD_OUT_BYTES // max(1, needed)))


def _output_shapes(model: keras.Model) -> Iterator[tuple[int | None, ...]]:
    """Yield the shape of every layer's output where Keras knows it, and of the scores that attention makes inside."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _output_shapes(layer)
        with suppress(AttributeError, ValueError):  # a layer that was not called on symbolic tensors
            parts = (part for part in (layer, *vars(layer).values()) if isinstance(part, keras.Layer))
            heads = max(int(getattr(part, "num_heads", 0)) for part in parts)
            for shape in (output.shape for output in keras.tree.flatten(layer.output)):
                yield from (shape, (None, heads, shape[1], shape[1])) if heads and len(shape) == 3 else (shape,)


def _plain_pipeline(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Switch off tuning and threads of its own: there is nothing to overlap with data in memory."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    return dataset.with_options(options)


def _sees_batches(callback: keras.callbacks.Callback) -> bool:
    """Return whether a callback does something at batches that it would not do at an epoch's end."""
    import keras

    known = keras.callbacks
    if isinstance(callback, known.TerminateOnNaN):
        kind, quiet = known.TerminateOnNaN, True
    elif isinstance(callback, known.ModelCheckpoint | known.BackupAndRestore):
        kind = known.ModelCheckpoint if isinstance(callback, known.ModelCheckpoint) else known.BackupAndRestore
        quiet = callback.save_freq == "epoch"
    elif isinstance(callback, known.TensorBoard):
        kind = known.TensorBoard
        profiles = callback._should_trace  # noqa: SLF001 - no public way
        quiet = callback.update_freq == "epoch" and not profiles and not callback.write_steps_per_second
    else:
        kind, quiet = known.Callback, True
    return not quiet or overrides(callback, kind, *_BATCH_HOOKS)
