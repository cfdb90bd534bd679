// Package scenario shows the Ceph backend as users meet it: real gateway processes on a
// real cluster, NBD clients that behave as a kernel does, daemons that are restarted and
// gateways that are killed, and the command rbd as a witness that knows nothing of
// strata.
//
// Its tests have the build tag ceph; hack/ceph.sh runs them and gives them the binary
// in STRATA_CEPH_BIN. Random choices come from STRATA_SEED, which is printed.
package scenario
