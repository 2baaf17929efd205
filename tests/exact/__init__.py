"""An attack on one claim: what is trained here is what Keras's `fit` would train."""
