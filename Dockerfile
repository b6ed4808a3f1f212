# The command platform-db in a small image, for init containers, cronjobs and operators.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY setup.py pyproject.toml README.rst LICENSE ./
COPY platform_db platform_db
# The environment itself gets no pip: what runs in production installs nothing.
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/platform-db \
    && pip --python /opt/platform-db/bin/python install --no-cache-dir /wheels/*.whl

FROM python:${PYTHON}-slim
COPY --from=build /opt/platform-db /opt/platform-db
ENV PATH=/opt/platform-db/bin:$PATH PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin platform-db
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["platform-db"]
CMD ["--help"]
