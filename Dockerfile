# docker build --tag edgeprune .
# docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" edgeprune demo --out demo-output
FROM python:3.11-slim

WORKDIR /source
COPY . .
RUN pip install --no-cache-dir ".[tensorflow]" \
    && rm -rf /source \
    && useradd --create-home edgeprune

USER edgeprune
ENV HOME=/tmp
WORKDIR /data
ENTRYPOINT ["edgeprune"]
CMD ["--help"]
