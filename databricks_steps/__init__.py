"""What is computed: trips, features, training, serving and scoring. Never when or where."""
