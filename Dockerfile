# docker build --tag edgeprune .
# docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" edgeprune demo --out demo-output
FROM python:3.11-slim

COPY . /source
RUN pip install --no-cache-dir "/source[tensorflow]" && useradd --create-home edgeprune

USER edgeprune
# Caches have a place even when --user gives another identity.
ENV HOME=/tmp
WORKDIR /data
ENTRYPOINT ["edgeprune"]
CMD ["--help"]
