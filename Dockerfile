# syntax=docker/dockerfile:1
#
#   docker run --cap-add SYS_RESOURCE -v /var/lib/strata:/data strata:VERSION store --data /data
#
# with --init, once, for the first start.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY pkg pkg
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /strata ./cmd/strata

# Nothing but the binary: the store needs no shell and no library.
FROM scratch
COPY --from=build /strata /strata
COPY LICENSE /LICENSE
ENTRYPOINT ["/strata"]
