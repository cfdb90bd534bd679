// Package vm is where strata meets a kernel with NBD: in guests, because neither the
// machine of a developer nor one of CI can be expected to have nbd.ko.
//
// # Run something in a guest
//
//	go run ./test/vm/cmd/guest -kind uml -- /usr/bin/uname -a
//
// runs a program of the host as root in a guest kernel that has the host's tree as its
// root (see test/vm/guest). A package's tests that need kernel NBD have the build tag
// kernelnbd and are run like this:
//
//	CGO_ENABLED=0 go test -tags kernelnbd -c -o /tmp/attach.test ./pkg/attach
//	go run ./test/vm/cmd/guest -kind uml -dir $PWD/pkg/attach -- /tmp/attach.test -test.v
//	go run ./test/vm/cmd/guest -kind qemu -dir $PWD/pkg/attach -- /tmp/attach.test -test.v
//
// Paths are absolute, and those of the host. `-timeout` bounds the command; when it
// strikes, the command gets SIGQUIT and the kernel says which tasks are blocked.
// Faults in the kernel's log are printed at the end, `-kernel` prints all of it,
// `-faults` makes them fail. `-disk 2048` puts /scratch (TMPDIR in the guest) on a disk,
// which a store with direct I/O or extents needs. `-env KEY=value` and `-memory` (MiB)
// do what they say. Inside, STRATA_GUEST=1 is set.
//
// # Tier
//
// `make vm` (hack/vm.sh) runs every package's tests of that kind in user-mode-linux and
// those of some on two CPUs in QEMU too, then the scenarios with the real processes:
// what must be seen on two CPUs in QEMU, the others in user-mode-linux. `hack/vm.sh
// pkg/attach` runs one package's; STRATA_VM_KINDS and STRATA_VM_RUN narrow it down.
//
// # Ceph
//
// `make ceph-vm` (hack/ceph-vm.sh) leads scenarios, and runs all of csi-sanity, over a
// Ceph cluster inside the guest, with a gateway for each node: what has build tags
// kernelnbd and ceph. The bodies of those scenarios are the ones that run over the
// embedded store. `make bench` measures a gateway beside rbd-nbd in such a guest.
package vm
