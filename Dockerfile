# Two images of one source: `--target api` (no torch) and `--target worker` (CPU or CUDA, by TORCH_ARGS).
# The install steps are those of `make install`; tests/test_packaging.py compares them.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TRAINYARD_DATA_DIR=/var/lib/trainyard
RUN groupadd --gid 10001 trainyard \
    && useradd --uid 10001 --gid trainyard --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin trainyard \
    && install --directory --owner trainyard --group trainyard --mode 0700 /var/lib/trainyard
WORKDIR /srv/trainyard
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt ./

FROM base AS api-build
COPY LICENSE README.md ./
COPY app app
COPY trainyard trainyard
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install -c constraints.txt ".[api,postgres]"

FROM base AS worker-build
# Arguments for pip that choose the build of torch, such as an extra index of wheels for one CUDA version.
ARG TORCH_ARGS=""
ARG TORCH=torch==2.13.0
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install ${TORCH_ARGS} -c constraints.txt ${TORCH}
COPY LICENSE README.md ./
COPY app app
COPY trainyard trainyard
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install -c constraints.txt ".[worker,postgres]"

FROM base AS api
COPY --from=api-build /opt/venv /opt/venv
ENV TRAINYARD_HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/trainyard
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["uvicorn", "app.main:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000", "--no-access-log", "--no-server-header"]

FROM base AS worker
COPY --from=worker-build /opt/venv /opt/venv
# Simulation only: no window system in here.
ENV MUJOCO_GL=disable
USER 10001:10001
WORKDIR /var/lib/trainyard
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-m", "worker.health"]
CMD ["python", "-m", "worker"]
