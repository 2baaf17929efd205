"""scikit-learn on the same rows: RandomizedSearchCV with five folds, one configuration at a time, until it is ended.

    python quality_sklearn.py TASK.npz SEED boosting|network

Prints a line of JSON after each configuration, without end. What the best one, trained on the training and validation
rows, gives for the test rows is kept in `best.npy`. The environment's STARTED is when the command was given.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings

import numpy as np
from scipy.stats import loguniform, randint, uniform
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import RandomizedSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor

arrays = np.load(sys.argv[1])
kind = str(arrays["kind"])
x, y = (np.concatenate([arrays[f"{axis}_train"], arrays[f"{axis}_validation"]]) for axis in ("x", "y"))
warnings.simplefilter("ignore")  # networks that did not converge
if sys.argv[3] == "boosting":
    model = (HistGradientBoostingRegressor if kind == "regression" else HistGradientBoostingClassifier)()
    space = {
        "learning_rate": loguniform(0.01, 0.3),
        "max_leaf_nodes": randint(4, 64),
        "min_samples_leaf": randint(2, 40),
        "l2_regularization": loguniform(1e-4, 10),
        "max_iter": randint(50, 400),
    }
else:
    model = (MLPRegressor if kind == "regression" else MLPClassifier)(early_stopping=True, max_iter=200)
    space = {
        "hidden_layer_sizes": [(w,) * d for d in (1, 2, 3) for w in (8, 16, 32, 64, 128, 256)],
        "learning_rate_init": loguniform(1e-4, 1e-1),
        "alpha": loguniform(1e-6, 1e-1),
        "batch_size": [16, 32, 64, 128],
        "activation": ["relu", "tanh"],
        "validation_fraction": uniform(0.1, 0.1),
    }
scoring = "neg_mean_squared_error" if kind == "regression" else "neg_log_loss"
best = -np.inf
for number in range(10**6):
    search = RandomizedSearchCV(
        model, space, n_iter=1, cv=5, scoring=scoring, random_state=1000 * int(sys.argv[2]) + number, n_jobs=-1
    ).fit(x, y)
    if search.best_score_ > best:
        best = search.best_score_
        given = search.predict(arrays["x_test"]) if kind == "regression" else search.predict_proba(arrays["x_test"])
        np.save("best.part.npy", given[:, 1:] if kind == "binary" else given)
        os.replace("best.part.npy", "best.npy")
    print(
        json.dumps({"seconds": time.time() - float(os.environ["STARTED"]), "params": {}, "value": -search.best_score_}),
        flush=True,
    )
