"""What a run leaves in MLflow, also when the server is away, and how a run is found again."""
