# The command platform-db in a small image, for init containers, cronjobs and operators.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY setup.py pyproject.toml README.rst LICENSE ./
COPY platform_db platform_db
# The environment itself gets no pip: what runs in production installs nothing.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/platform-db \
    && pip --python /opt/platform-db/bin/python install --no-cache-dir "$(echo /wheels/*.whl)[metrics]"

FROM python:${PYTHON}-slim
ARG PYTHON
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="platform-db" \
      org.opencontainers.image.description="The command platform-db: migrations, cronjobs and metrics" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:${PYTHON}-slim"
COPY --from=build /opt/platform-db /opt/platform-db
ENV PATH=/opt/platform-db/bin:$PATH PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin platform-db
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["platform-db"]
CMD ["--help"]
