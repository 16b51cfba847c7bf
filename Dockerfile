# One image for every role: `fleetplane serve`, the command line, the demo.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements/run.txt requirements/run.txt
RUN python -m venv /opt/fleetplane \
 && /opt/fleetplane/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY controlplane controlplane
COPY clients/python clients/python
RUN /opt/fleetplane/bin/pip install --no-cache-dir --no-deps ./clients/python .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/fleetplane fleetplane
COPY --from=build /opt/fleetplane /opt/fleetplane
ENV PATH=/opt/fleetplane/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FLEETPLANE_DATA_DIR=/var/lib/fleetplane/data \
    FLEETPLANE_LOG_FORMAT=json
USER 10001
VOLUME /var/lib/fleetplane/data
EXPOSE 50051 50052
STOPSIGNAL SIGTERM
# A container listens on all of its own addresses: over TLS, and only to those who prove who they are. 50052 is for
# agents with certificates. FLEETPLANE_TLS_NAMES takes the names by which clients reach it.
ENTRYPOINT ["fleetplane"]
CMD ["serve", "--listen", "0.0.0.0:50051", "--secure", "--listen-mtls", "0.0.0.0:50052"]
