"""The tickets and the model of the study `tickets`."""

import keras
import numpy as np

DEPARTMENTS = ("billing", "login", "shipping", "returns")
WORDS = 120  # numbers of words; 0 is padding
TITLE, TEXT, TAGS = 6, 20, 8


def tickets(count, seed):
    """Return made-up tickets: inputs, targets and weights, each a dictionary of arrays.

    Inputs: `title` and `text`, numbers of words, and `tags`, 0 or 1 each. Targets: `urgency` in [0, 1], and
    `department`, one of four, one-hot. Old tickets count less for the department, which has changed since.

    Args:
        count: How many tickets.
        seed: Decides them.
    """
    draw = np.random.default_rng(seed)
    department = draw.integers(0, len(DEPARTMENTS), count)
    urgent = draw.random(count)

    def words(length):
        own = 1 + 20 * department[:, None] + draw.integers(0, 20, (count, length))
        alarm = 90 + draw.integers(0, 10, (count, length))
        other = draw.integers(1, WORDS, (count, length))
        kind = draw.random((count, length))
        return np.where(kind < 0.35, own, np.where(kind < 0.35 + 0.3 * urgent[:, None], alarm, other)).astype("int32")

    tags = (draw.random((count, TAGS)) < 0.2 + 0.5 * (np.arange(TAGS) == department[:, None])).astype("float32")
    inputs = {"title": words(TITLE), "text": words(TEXT), "tags": tags}
    targets = {"urgency": urgent.astype("float32"), "department": np.eye(len(DEPARTMENTS), dtype="float32")[department]}
    weights = {"urgency": np.ones(count), "department": np.linspace(0.5, 1.0, count)}
    return inputs, targets, weights


def build(trial, data, urgency_weight):
    """Read title and text, look at the tags, and answer both questions from the same features."""
    width = trial.params["width"]
    title = keras.Input((TITLE,), dtype="int32", name="title")
    text = keras.Input((TEXT,), dtype="int32", name="text")
    tags = keras.Input((TAGS,), name="tags")
    read = [keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(WORDS, width)(each)) for each in (title, text)]
    features = keras.layers.Dropout(trial.params["dropout"])(keras.layers.Concatenate()([*read, tags]))
    urgency = keras.layers.Dense(1, activation="sigmoid", name="urgency")(features)
    department = keras.layers.Dense(len(DEPARTMENTS), activation="softmax", name="department")(features)
    model = keras.Model({"title": title, "text": text, "tags": tags}, {"urgency": urgency, "department": department})
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss={"urgency": "mean_squared_error", "department": "categorical_crossentropy"},
        loss_weights={"urgency": urgency_weight, "department": 1.0},
        metrics={"department": ["accuracy"]},
    )
    return model
