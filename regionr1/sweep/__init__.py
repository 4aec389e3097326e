"""Optuna studies whose trials are `regionr1 fit` in processes of their own, nested in MLflow."""
