"""When and where: assets, checks, jobs and the command line. What is computed: databricks_steps."""
