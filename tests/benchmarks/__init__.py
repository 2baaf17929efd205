"""Benchmarks: what a search costs against what a person would do instead. No part of the tests."""
