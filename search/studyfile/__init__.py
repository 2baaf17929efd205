"""The study file: found, read, checked whole, copied. It never loads data and never imports Keras."""
