// Package failpoint lets tests of crashes end the process exactly where they want.
//
// A failpoint is a name at a place in the code: Hit("layered.create"). In a normal
// build Hit does nothing and costs nothing. In a build with the tag "failpoints" the
// process kills itself with SIGKILL there if the environment variable STRATA_FAILPOINT
// names the point: "layered.create" at the first hit, "layered.create#3" at the third.
// A value that is malformed panics at the first hit of any point, since a test that
// stops nothing proves nothing.
//
// Points stand after a step that is durable and before the next one, or before its
// answer. Names begin with the package and are written out in full, so that a test
// finds them by a search; only those of package storeapi are made up, one for each
// method: "storeapi.Create".
//
// It does not return errors and does not delay: faults of disks are the business of
// package vfs.
package failpoint
