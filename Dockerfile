# The orchestrator: webserver, daemon and code location run from this one image (compose.yaml).
FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 10001 taxi
WORKDIR /opt/taxi-assets
COPY requirements-image.lock pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir -r requirements-image.lock
COPY databricks_steps databricks_steps
COPY taxi_assets taxi_assets
COPY workspace.yaml compose-workspace.yaml databricks.yml ./
RUN pip install --no-cache-dir --no-deps -e . \
    && install -d -o taxi -g taxi /var/lib/taxi-assets
USER taxi
ENV TAXI_HOME=/var/lib/taxi-assets DAGSTER_HOME=/var/lib/taxi-assets/dagster
EXPOSE 3000
