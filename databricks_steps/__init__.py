"""What is computed: trips, features, training, serving and scoring. Never when or where."""

from databricks_steps import network

network.prepare()
