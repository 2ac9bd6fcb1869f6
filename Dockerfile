# Two images of one source. `api` has no torch: it accepts, records and answers. `worker` has it, and computes.
#
#   docker build --target api -t expunge-api .
#   docker build --target worker -t expunge-worker .
#
# The base is pinned by digest (Python 3.11.16 on Debian 12): a tag moves, a digest does not. To move on, change it here alone.
ARG PYTHON=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON} AS source
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/expunge/bin:$PATH
RUN python -m venv /opt/expunge
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY expunge expunge
COPY models models
COPY service service
COPY workers workers
COPY migrations migrations

FROM source AS api-packages
RUN pip install '.[service,s3]'

FROM source AS worker-packages
# The default torch carries CUDA. For processors alone: --build-arg PIP_EXTRA_INDEX_URL=... with an index of CPU builds.
ARG PIP_EXTRA_INDEX_URL=
RUN pip install '.[service,worker,s3]'

FROM ${PYTHON} AS bare
# A number and not a name: Kubernetes can then see that it is not root.
RUN groupadd --system --gid 10001 expunge \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin expunge \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/expunge /var/lib/expunge/keys /var/lib/expunge/blobs
ENV PATH=/opt/expunge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    EXPUNGE_DATA_DIR=/var/lib/expunge \
    EXPUNGE_KEYS_DIR=/var/lib/expunge/keys
WORKDIR /var/lib/expunge
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["expunge"]

FROM bare AS api
COPY --from=api-packages /opt/expunge /opt/expunge
EXPOSE 8000
CMD ["serve"]

FROM bare AS worker
COPY --from=worker-packages /opt/expunge /opt/expunge
CMD ["worker", "--queue", "cpu"]
