# syntax=docker/dockerfile:1
# Baton's programs in an image without a shell (target `baton`, the default), and beside a database server (target `database`).
#
#   docker build -t baton .
#   docker build -t baton-database --target database .

ARG BUILD_IMAGE=docker.io/library/rust:1-bookworm
# Needs glibc of Debian 12 or later, libgcc and OpenSSL 3.
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot
ARG DATABASE_IMAGE=docker.io/library/mariadb:11.4

FROM ${BUILD_IMAGE} AS build
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends protobuf-compiler libprotobuf-dev libssl-dev pkg-config \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG FEATURES=baton-failover/kubernetes
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p baton-relay -p baton-failover --bins --features "${FEATURES}" \
 && install -D -t /out target/release/baton-relay target/release/baton-failover target/release/batonctl \
 && mkdir /out/data

# A server with Baton's agent as its supervisor. As baton-agent-vip the agent may change the node's addresses without being root.
FROM ${DATABASE_IMAGE} AS database
ARG DEBIAN_FRONTEND=noninteractive
COPY --from=build /out/baton-failover /out/batonctl /usr/local/bin/
RUN apt-get update \
 && apt-get install -y --no-install-recommends libcap2-bin \
 && cp /usr/local/bin/baton-failover /usr/local/bin/baton-agent-vip \
 && setcap cap_net_admin,cap_net_raw+ep /usr/local/bin/baton-agent-vip \
 && install -d -o 999 -g 999 /var/lib/baton \
 && rm -rf /var/lib/apt/lists/*
USER 999:999
EXPOSE 3306 8092 8093
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/usr/local/bin/baton-failover", "health", "http://127.0.0.1:8092/health"]
ENTRYPOINT ["/usr/local/bin/baton-failover"]
CMD ["agent", "--config", "/etc/baton/agent.toml", "--exec", "mariadbd"]

FROM ${RUNTIME_IMAGE} AS baton
COPY --from=build /out/baton-relay /out/baton-failover /out/batonctl /usr/local/bin/
COPY --from=build --chown=10001:10001 /out/data /var/lib/baton
USER 10001:10001
EXPOSE 3307 8090 8091
# What is asked is the relay; a controller is asked with BATON_HEALTH_URL=http://127.0.0.1:8091/healthz.
ENV BATON_HEALTH_URL=http://127.0.0.1:8090/healthz
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/usr/local/bin/baton-failover", "health"]
CMD ["/usr/local/bin/baton-relay", "--config", "/etc/baton/relay.toml"]
