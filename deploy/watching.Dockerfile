# Images of what watches over a cluster, for where no registry has them: Prometheus as Debian has it, and Flower from PyPI.
# `deploy/image.sh --watching` builds them.
ARG BASE=debian:12-slim
# One with Python and a way to PyPI.
ARG BUILD=debian:12-slim

FROM ${BASE} AS prometheus
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends prometheus \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/* \
    && install -d -o 10004 -g 10004 /prometheus
USER 10004:10004
VOLUME /prometheus
ENTRYPOINT ["prometheus"]

FROM ${BUILD} AS build
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends python3-venv
COPY python/requirements-test.txt /src/
# The versions that the tests of the Python package run with.
RUN python3 -m venv /opt/flower \
    && /opt/flower/bin/pip install -q --no-cache-dir -c /src/requirements-test.txt flower 'celery[redis]'

FROM ${BASE} AS flower
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends python3-minimal libpython3-stdlib python3-distutils tini \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/* \
    && useradd --system --uid 10003 --user-group --no-create-home --home-dir /nonexistent flower
COPY --from=build /opt/flower /opt/flower
COPY deploy/flower.py /opt/flower/frameloom.py
USER 10003:10003
WORKDIR /tmp
EXPOSE 5555
ENTRYPOINT ["tini", "--", "/opt/flower/bin/python", "/opt/flower/frameloom.py"]
