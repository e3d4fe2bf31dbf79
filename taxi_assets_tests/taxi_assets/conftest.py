"""Makes the fixtures of conftest_run.py and of the browser known to every test of this folder."""

from browser import browser, page
from conftest_run import first_run, homes, no_java, proxy, small_source

__all__ = ["browser", "first_run", "homes", "no_java", "page", "proxy", "small_source"]
