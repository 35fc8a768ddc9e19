# One image for all rooms: `turnstone api`, `turnstone worker`, and the commands that use the API.
# docker-compose.yml beside this file runs them with a store.

# The version that the tests run with.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/turnstone
WORKDIR /src
# The dependencies lie in a layer of their own, which a change of the code leaves alone.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; e = p['optional-dependencies']; \
      print(*p['dependencies'], *e['memory'], *e['pgvector'], sep='\n')" \
      > requirements.txt \
    && /opt/turnstone/bin/pip install -r requirements.txt
COPY README.md LICENSE ./
COPY shared shared
COPY api api
COPY worker worker
RUN /opt/turnstone/bin/pip install --no-deps . \
    && /opt/turnstone/bin/pip uninstall --yes pip setuptools
RUN mkdir /var/lib/turnstone

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="Turnstone" \
      org.opencontainers.image.description="Runs long agent turns for web backends." \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/turnstone /opt/turnstone
COPY --from=build --chown=10001:10001 /var/lib/turnstone /var/lib/turnstone
ENV PATH=/opt/turnstone/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A run config that is mounted here as turnstone.yaml is found without being named.
WORKDIR /etc/turnstone
# Nothing is written but temporary files, and documents below /var/lib/turnstone: the rest may be read-only, with a /tmp.
USER 10001:10001
EXPOSE 8321
ENTRYPOINT ["turnstone"]
CMD ["--help"]
