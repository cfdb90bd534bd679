// Package e2e is where strata meets a real Kubernetes: etcd, API server, controllers and
// scheduler, kubelets with containerd and runc, the CSI sidecars and helm, all built from
// Go modules at the versions in this module's go.mod, which is apart from strata's own.
// Nothing is fetched from an image registry.
//
//	make e2e                              everything, with steps and times
//	hack/e2e.sh -test.run TestDrain       one scenario, and the cluster for it
//	STRATA_E2E_HOLD=1 hack/e2e.sh         keep the cluster to look around in it
//	make e2e-upstream                     the upstream storage suite, with a table
//
// # Layout
//
//   - The control plane and one kubelet run on the machine itself, in network, mount and
//     process namespaces that end with the run. That node, "control", has the controllers
//     of strata and is tainted for everything else: its kernel has no NBD.
//   - node1 and node2 are QEMU guests with emulated processors, Debian's kernel, and a
//     disk of their own that outlives a power cut. Stores, node plugins and workloads run
//     there. They are slow: a pod takes several seconds to start.
//   - Pods reach each other by routes; a DNS server names services. There is no service
//     proxy: headless services and that of the API server are all that is needed.
//
// # Packages
//
//   - cluster brings it up; image writes images as archives; process runs programs.
//   - scenario has the tests, upstream the suite of Kubernetes for drivers of others.
//   - report prints steps, figures and verdict read what fio and that suite say.
//
// # What it does not show
//
// Service proxies, overlay networks, cloud load balancers, SELinux and cgroup v1 on the
// nodes with volumes. Times are of emulated processors: only what is compared within one
// run means anything.
package e2e
