"""MLflow: runs, logged models and the registry. It never trains and never chooses."""
