// Package stagetest is a host and a store without a kernel's NBD, for tests of package
// stage and of what is built on it: devices are files, or loop devices where file
// systems are to be mounted for real. The links are real sockets, so that they can hang
// up; no data goes over them.
//
// A World outlives the services opened on it, as a host outlives its processes. It does
// not imitate the kernel's NBD beyond what stage relies on: see test/vm for the kernel.
package stagetest
