// Package cluster runs a real Ceph cluster for tests: Debian's ceph-mon and ceph-osd,
// one of each, on loopback, with cephx, in a folder of its own.
//
// # Terms
//
//   - daemon: the monitor or the OSD, a child of this process in the foreground. It gets
//     SIGKILL from the kernel when the process that started it ends, however that ends.
//   - object store: where the OSD keeps data. MemStore is fast, and holds its data over
//     Stop and Start but not over Kill; BlueStore holds what it acknowledged over both.
//
// # Invariants
//
//   - Close ends every process that was started and returns when they are gone. Only
//     own children are signalled, by their process ids.
//   - A daemon that ends by itself is an error of whoever waits for the cluster, with
//     the last lines of its log.
//   - No file outside the cluster's folder is written, no configuration or environment
//     variable of the machine's own Ceph is read.
//
// There is no manager daemon: what needs one (rbd task, iostat) does not work. Size is 1:
// a cluster shows semantics and the behaviour of clients, not replication.
package cluster
