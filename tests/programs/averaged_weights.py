"""Averaged weights put in place after each epoch, a schedule of the program's own, a callback that sees batches.

After `guides/writing_your_own_callbacks.py` of keras-team/keras-io, made small.
"""

import keras
from keras import layers
from sklearn.datasets import load_digits


def load():
    d = load_digits()
    return d.data[:600] / 16, d.target[:600]


@keras.saving.register_keras_serializable("programs")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, peak, steps):
        self.peak, self.steps = peak, steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        return self.peak * keras.ops.minimum((step + 1) / self.steps, keras.ops.rsqrt(step + 1) * self.steps**0.5)

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


def build(trial, data):
    m = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(trial.params["width"], activation="gelu"),
            layers.BatchNormalization(),
            layers.Dense(10, activation="softmax", dtype="float32"),
        ]
    )
    opt = keras.optimizers.AdamW(
        WarmUp(trial.params["peak"], 20.0), weight_decay=1e-4, clipnorm=1.0, use_ema=True, ema_momentum=0.9
    )
    m.compile(
        opt,
        "sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(3, name="top3")],
    )
    return m


class RateWatcher(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        logs["rate"] = self.rate
