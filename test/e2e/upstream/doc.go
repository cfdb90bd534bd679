// Package upstream is the test suite that Kubernetes has for storage drivers of others
// (test/e2e/storage/external), as a program of its own: the suite of all of Kubernetes
// needs no driver and takes far longer to build. driver.yaml declares what strata can do.
// hack/e2e.sh builds and runs it; see package scenario for the parts that are run always.
package upstream
