"""The texts and the model of the study `reviews`."""

import keras
import numpy as np

GOOD = ("friendly staff", "a quiet room", "great breakfast", "a lovely view", "very clean", "helpful at any hour")
BAD = ("rude staff", "a noisy room", "cold breakfast", "a view of a wall", "not clean", "nobody at the desk")
BOTH = ("near the station", "on the third floor", "we stayed two nights", "booked in May", "paid by card")


def texts(count, seed):
    """Return made-up reviews, a list of texts, and a label for each.

    One phrase in eight is of the other kind, so that no model is right every time.

    Args:
        count: How many reviews.
        seed: Decides them.
    """
    draw = np.random.default_rng(seed)
    reviews, labels = [], []
    for _ in range(count):
        liked = bool(draw.random() < 0.5)
        phrases = [str(draw.choice(GOOD if liked == (draw.random() < 7 / 8) else BAD)) for _ in range(3)]
        phrases.insert(int(draw.integers(4)), str(draw.choice(BOTH)))
        reviews.append(", ".join(phrases).capitalize() + ".")
        labels.append("liked" if liked else "disliked")
    return reviews, labels


def build(trial, data):
    """Learn a vector for each of the most frequent words, and judge by their mean."""
    split = keras.layers.TextVectorization(max_tokens=trial.params["words"], output_sequence_length=20)
    split.adapt(data.x)
    review = keras.Input((), dtype="string", name="review")
    words = keras.layers.Embedding(trial.params["words"], trial.params["width"], mask_zero=True)(split(review))
    liked = keras.layers.Dense(1, activation="sigmoid")(keras.layers.GlobalAveragePooling1D()(words))
    model = keras.Model(review, liked)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="binary_crossentropy", metrics=["binary_accuracy"])
    return model
