"""One trial: its model built, trained, measured. It knows nothing of MLflow and nothing of where it runs."""
