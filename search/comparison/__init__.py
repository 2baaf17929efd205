"""Two models on the same rows: what each gave for them, its scores, and whether one is surely better."""
