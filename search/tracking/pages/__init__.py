"""What MLflow's pages show of a study: a saved view, descriptions in words, and the counts behind them."""
