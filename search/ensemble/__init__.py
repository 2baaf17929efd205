"""Several trainings averaged into one model: which ones, whether that is surely better, and the model itself."""
