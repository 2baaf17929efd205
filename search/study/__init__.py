"""The Optuna study: its storage, its space, what to try next and which trials are best."""
