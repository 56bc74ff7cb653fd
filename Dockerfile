# The image of the satellite and of the hub: one static binary and nothing
# else. It carries the CA roots itself, runs as nobody, needs no shell.
#
#   docker build -t usm-satellite .
#   docker build -t usm-satellite-tools --target tools .     satctl, for the core
#
# Where no base image can be pulled, the binaries are built outside:
#
#   .ci/build && docker build -t usm-satellite --target prebuilt .

FROM scratch AS base
ARG VERSION=development
ARG REVISION=unknown
LABEL org.opencontainers.image.title="satellite" \
      org.opencontainers.image.description="Runs network jobs from RabbitMQ on the equipment of a remote site" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --chown=65532:65532 deploy/image/state /var/lib/satellite
COPY --chown=65532:65532 deploy/image/state /run/satellite
USER 65532:65532
STOPSIGNAL SIGTERM
# UDP of the hub; a satellite opens no port at all.
EXPOSE 51820/udp
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["/satellite", "health"]
ENTRYPOINT ["/satellite"]
CMD ["run"]

FROM base AS prebuilt
COPY bin/satellite /satellite

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=development
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/ ./cmd/satellite ./cmd/satctl

FROM base AS tools
COPY --from=build /out/satellite /out/satctl /
HEALTHCHECK NONE
ENTRYPOINT ["/satctl"]
CMD ["help"]

FROM base AS release
COPY --from=build /out/satellite /satellite
