"""TensorFlow graphs that are traced once and serve every like model."""
