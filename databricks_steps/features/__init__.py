"""Features of locations, and how a trip looks them up at its pickup."""
