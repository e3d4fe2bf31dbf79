"""Where Dagster's records are, for those who read them without importing Dagster."""

POSTGRES = "TAXI_DAGSTER_POSTGRES"  # a URL: its password stays in the environment
