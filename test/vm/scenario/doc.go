// Package scenario is what users live through, in a guest kernel and with the real
// processes: `strata store`, `strata controller` and `strata node`, spoken to over
// their CSI sockets as the sidecars and the kubelet do.
//
// Every test has processes and data directories of its own below /scratch, prints the
// seed of what it does at random (STRATA_SEED replays it), and ends by looking at the
// kernel's log and at what is left: a device, a mount or a record that nobody wants is
// a failure.
package scenario
