"""The embedded platform: local Spark, Delta tables in a folder, MLflow in SQLite."""
