"""What assets ask of their target: the platform, MLflow, the workspace, the step launcher."""
