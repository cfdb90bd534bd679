// Package sanity runs csi-sanity, the conformance suite of CSI, against strata.
//
// On any host the controller half runs: the real controller over the real embedded
// store, with a node that has only a name. With build tag kernelnbd, in a guest whose
// kernel has NBD, the whole suite runs in mount and in block mode against "strata all",
// the binary that STRATA_BIN names:
//
//	CGO_ENABLED=0 go test -tags kernelnbd -c -o /tmp/sanity.test ./test/sanity
//	go run ./test/vm/cmd/guest -kind uml -dir $PWD/test/sanity -env STRATA_BIN=$PWD/bin/strata -- /tmp/sanity.test -test.v
//
// With build tag ceph in addition it runs against a gateway, a controller and a node, with
// a Ceph cluster beside them in the guest; `make ceph-vm` does that. Without kernelnbd that
// tag adds the controller half over a cluster on the host.
//
// All print how many specs passed and were skipped, and why. A spec may be skipped only
// because the driver does not declare the capability that it is about; one that was
// skipped for another reason fails the run. At the end the store must be empty and whole.
package sanity
