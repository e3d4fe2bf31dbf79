"""The engine of a cluster, for the tasks that run on it: Spark in a JVM, or Sail's server.

Runs by its path in an environment without the project (cluster_packages.py), and so imports nothing
of it: `python -I driver.py ENGINE`, by the workspace's drivers. ENGINE is JSON: `sail`, the modules
its server imports before it listens, or `conf`, that of Spark in a JVM, with `connect` where tasks
reach it by Spark Connect alone. Prints the variables with which a task finds it, as one line of
JSON, and ends when nobody holds its input.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from importlib import import_module
from typing import Any

Variables = dict[str, str]
KEPT: list[Any] = []  # a server that nothing refers to ends


def main(engine: dict[str, Any]) -> None:
    """Start the engine, say where it is, and keep it."""
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    found = _sail(engine["sail"]) if "sail" in engine else _jvm(engine["conf"], "connect" in engine)
    print(json.dumps(found), flush=True)
    os.dup2(2, 1)  # what a function of a query prints belongs to the log; nobody reads on here
    sys.stdin.read()
    os._exit(0)  # queries may be at work for a task that is gone; a JVM ends with its input, too


def _sail(modules: list[str]) -> Variables:
    from pysail.spark import SparkConnectServer

    for name in modules:  # threads of queries that import the same packages see them half made
        import_module(name)
    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    KEPT.append(server)
    return {"SPARK_REMOTE": f"sc://127.0.0.1:{server.listening_address[1]}"}


def _jvm(conf: Variables, connect: bool) -> Variables:
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    token = secrets.token_urlsafe()
    if connect:
        os.environ["SPARK_CONNECT_AUTHENTICATE_TOKEN"] = token
        conf |= {
            "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": "0",
            # Each session's functions and classes are its own.
            "spark.sql.artifact.isolation.enabled": "true",
            "spark.sql.artifact.isolation.alwaysApplyClassloader": "true",
        }
    made = SparkConf(loadDefaults=False).setAll([*conf.items()])
    gateway: Any = launch_gateway(made, {"stdout": sys.stderr})  # type: ignore[no-untyped-call]
    SparkSession(SparkContext(conf=made, gateway=gateway))
    if connect:
        service = gateway.jvm.org.apache.spark.sql.connect.service.SparkConnectService
        where = f"sc://127.0.0.1:{service.localPort()}"
        return {"SPARK_REMOTE": where, "SPARK_CONNECT_AUTHENTICATE_TOKEN": token}
    found = gateway.gateway_parameters
    return {
        "PYSPARK_GATEWAY_PORT": str(found.port),
        "PYSPARK_GATEWAY_SECRET": found.auth_token,
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
