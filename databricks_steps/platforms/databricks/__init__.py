"""The Databricks platform: Unity Catalog tables, Feature Engineering, the cluster's own session."""
