"""Reading text in pictures: the labels are an input, the loss is a layer's, the model without both is registered.

After `examples/vision/captcha_ocr.py` of keras-team/keras-io, made small.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops


def load():
    generator = np.random.default_rng(0)
    labels = generator.integers(1, 4, size=(96, 2))
    images = np.repeat(labels, 8, axis=1)[..., None, None] * np.ones((1, 1, 4, 1)) / 4
    images = (images + 0.05 * generator.normal(size=images.shape)).astype("float32")

    def dataset(rows):
        pairs = {"image": images[rows], "label": labels[rows]}
        return tf.data.Dataset.from_tensor_slices(pairs).batch(16).prefetch(tf.data.AUTOTUNE)

    return {"train": dataset(slice(0, 80)), "validation": dataset(slice(80, 96))}


@keras.saving.register_keras_serializable("programs")
class CTCLayer(layers.Layer):
    def call(self, y_true, y_pred):
        batch_len = ops.shape(y_true)[0]
        input_length = ops.shape(y_pred)[1] * ops.ones(shape=(batch_len,), dtype="int32")
        label_length = ops.shape(y_true)[1] * ops.ones(shape=(batch_len,), dtype="int32")
        loss = ops.ctc_loss(ops.cast(y_true, "int32"), ops.log(y_pred + 1e-7), label_length, input_length, mask_index=0)
        self.add_loss(ops.mean(loss))
        return y_pred


def build(trial, data):
    input_img = layers.Input(shape=(16, 4, 1), name="image", dtype="float32")
    labels = layers.Input(name="label", shape=(None,), dtype="float32")
    x = layers.Conv2D(trial.params["width"], (3, 3), activation="relu", padding="same", name="Conv1")(input_img)
    x = layers.MaxPooling2D((2, 2), name="pool1")(x)
    x = layers.Reshape(target_shape=(8, 2 * trial.params["width"]), name="reshape")(x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, dropout=0.25))(x)
    x = layers.Dense(5, activation="softmax", name="dense2")(x)
    output = CTCLayer(name="ctc_loss")(labels, x)
    model = keras.models.Model(inputs=[input_img, labels], outputs=output, name="ocr_model_v1")
    model.compile(optimizer=keras.optimizers.Adam())
    return model


def inference(model, data):
    return keras.models.Model(model.input[0], model.get_layer(name="dense2").output)
