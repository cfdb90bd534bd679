# syntax=docker/dockerfile:1
#
# The image of strata, with a container engine. `make image` builds the same one without.
#
#   docker run --cap-add SYS_RESOURCE -v /var/lib/strata:/data strata:VERSION store --data /data
#
# with --init, once, for the first start. It runs as root, as stores and nodes have to; a
# controller needs no privilege: --user 65532.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY pkg pkg
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /strata ./cmd/strata

# Programs of Debian packages with just the libraries they need, and a record of both.
FROM build AS root
COPY hack/image hack/image
COPY LICENSE LICENSE
ARG SOURCE_DATE_EPOCH=0
RUN go run ./hack/image -strata /strata -version "${VERSION}" -created "${SOURCE_DATE_EPOCH}" -cache /tmp/packages -root /root-of

FROM scratch
COPY --from=root /root-of/tools/ /
COPY --from=root /root-of/strata/ /
ARG VERSION=unknown
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="strata" \
      org.opencontainers.image.description="Block volumes with instant snapshots and clones: CSI driver and store" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="strata" \
      org.opencontainers.image.url="https://github.com/strata-csi/strata" \
      org.opencontainers.image.source="https://github.com/strata-csi/strata" \
      org.opencontainers.image.documentation="https://github.com/strata-csi/strata#readme" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/strata"]
