# An image of mtfrun, installed from its wheel; its programs do not run as root. docs/containers.md
#
#     docker build -t mtfrun .                                 CPUs
#     docker build -t mtfrun:gpu --build-arg EXTRAS=gpu .      GPUs of NVIDIA

FROM python:3.11-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir=/wheels .

FROM python:3.11-slim
ARG EXTRAS=
COPY constraints.txt /opt/mtfrun/constraints.txt
COPY --from=wheel /wheels /opt/mtfrun/wheels
RUN pip install --no-cache-dir --constraint=/opt/mtfrun/constraints.txt \
    "$(ls /opt/mtfrun/wheels/mtfrun-*.whl)${EXTRAS:+[$EXTRAS]}"
RUN install -d -o 1000 -g 1000 /runs
USER 1000:1000
# Caches of data, and what libraries write into a home directory.
ENV HOME=/runs/.home
WORKDIR /runs
VOLUME /runs
ENTRYPOINT ["mtfrun"]
CMD ["--help"]
