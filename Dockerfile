# The library, params, notebooks and schedule: for a host (compose.yaml) and for the jobs of SageMaker. It runs as a user
# of its own and writes only to /tmp and /var/lib/cryptomon, so its root may be read-only.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/venv
# what changes seldom comes first: every version by its hash, as it is locked
COPY requirements.lock ./
RUN /opt/venv/bin/pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY scripts/not_needed.py scripts/not_needed.py
COPY cryptomon_lib cryptomon_lib
# tools of development go again before this stage's result is copied
RUN /opt/venv/bin/pip install --no-deps . \
    && /opt/venv/bin/python scripts/not_needed.py aws notify trino > /tmp/not-needed \
    && /opt/venv/bin/pip uninstall --yes --requirement /tmp/not-needed

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/cryptomon --shell /usr/sbin/nologin cryptomon \
    && mkdir -p /opt/cryptomon /var/lib/cryptomon /data \
    && ln -s /var/lib/cryptomon /opt/cryptomon/.cryptomon \
    && chown cryptomon:cryptomon /var/lib/cryptomon /data
COPY --from=build /opt/venv /opt/venv
COPY params /opt/cryptomon/params
COPY notebooks /opt/cryptomon/notebooks
COPY scheduled /opt/cryptomon/scheduled
# HOME is where Jupyter, IPython and matplotlib keep what they need while they run
ENV PATH=/opt/venv/bin:$PATH \
    CRYPTOMON_HOME=/opt/cryptomon \
    HOME=/var/lib/cryptomon \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/cryptomon
USER 10001:10001
ENTRYPOINT ["cryptomon"]
CMD ["--help"]
