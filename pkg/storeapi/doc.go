// Package storeapi carries store.Full over gRPC: Server offers a store to other
// processes, Client is a store.Full again.
//
// # Terms
//
//   - endpoint: where the bytes are served, an NBD URI without an export name. The
//     API itself never carries image data; Client.Open asks for the endpoints and
//     speaks NBD.
//   - reason: the name of a store sentinel on the wire ("NO_SPACE").
//
// # Invariants
//
//   - An error that matches a store sentinel on the server matches the same
//     sentinels on the client, and its text is unchanged. A server that cannot be
//     reached is store.ErrUnavailable, never store.ErrNotFound.
//   - Lists travel in pages of bounded size. Walk, Children, Jobs, Publications and
//     Notes are read whole before the first page is sent, and Extents page by page, so a
//     slow reader holds nothing in the store. Diff runs at the reader's pace.
//   - A panic in a handler ends that request only.
//   - Tokens of publications are answered but never logged, and never to nodes.
//   - What a caller may do follows from the connection. Over a unix socket (mode 0600),
//     and over TCP without TLS: everything. Over TLS, the role in the certificate counts:
//     controllers and operators may everything, nodes what a table names (see nodeMay),
//     others nothing. A call that is not in the table is denied: ErrDenied.
//
// # What it does not do
//
// It does not tell one node from another, nor decide which addresses may do without TLS:
// whoever listens does. It does not reconnect devices: one whose connection is lost answers
// store.ErrUnavailable until it is opened again.
//
// The wire format is proto/strata.proto; hack/update-proto.sh generates storepb.
package storeapi
