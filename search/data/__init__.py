"""The data of a study: loaded, checked, split, prepared. It knows nothing of models, trials or MLflow."""
