// Package scenario shows strata at work on a real Kubernetes with two nodes that have
// kernel NBD: what users do with volumes, and what happens to those under upgrades,
// drains and failures. hack/e2e.sh runs it.
package scenario
