"""Makes the fixtures of conftest_run.py known to every test of this folder."""

from conftest_run import first_run, homes, no_java, small_source

__all__ = ["first_run", "homes", "no_java", "small_source"]
