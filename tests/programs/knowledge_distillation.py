"""A student learns from a teacher in a training step of its own, the student registered.

After `examples/vision/knowledge_distillation.py` of keras-team/keras-io, made small.
"""

import keras
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits


def load():
    digits = load_digits()
    x, y = digits.images[:500, ..., None].astype("float32") / 16, digits.target[:500]
    return (x[:400], y[:400]), (x[400:], y[400:])


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.teacher = teacher
        self.student = student

    def compile(self, optimizer, metrics, student_loss_fn, distillation_loss_fn, alpha=0.1, temperature=3):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss_fn = student_loss_fn
        self.distillation_loss_fn = distillation_loss_fn
        self.alpha = alpha
        self.temperature = temperature

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False):
        teacher_pred = self.teacher(x, training=False)
        student_loss = self.student_loss_fn(y, y_pred)
        distillation_loss = self.distillation_loss_fn(
            tf.nn.softmax(teacher_pred / self.temperature, axis=1), tf.nn.softmax(y_pred / self.temperature, axis=1)
        ) * (self.temperature**2)
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss

    def call(self, x):
        return self.student(x)


def network(width, name):
    return keras.Sequential(
        [
            keras.Input(shape=(8, 8, 1)),
            layers.Conv2D(width, (3, 3), strides=(2, 2), padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Flatten(),
            layers.Dense(10),
        ],
        name=name,
    )


def build(trial, data):
    teacher = network(16, "teacher")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(optimizer="adam", loss=loss)
    teacher.fit(data.x, data.y, epochs=1, verbose=0)
    distiller = Distiller(student=network(2, "student"), teacher=teacher)
    distiller.compile(
        optimizer=keras.optimizers.Adam(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
        student_loss_fn=loss,
        distillation_loss_fn=keras.losses.KLDivergence(),
        alpha=trial.params["alpha"],
        temperature=10,
    )
    return distiller


def inference(model, data):
    return model.student
