"""Tests that need GPUs; `bin/test --gpu` runs them."""
