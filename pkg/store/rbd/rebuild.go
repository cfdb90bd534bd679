//go:build ceph

package rbd

// #cgo LDFLAGS: -lrbd -lrados
// #include <stdlib.h>
// #include <rados/librados.h>
// #include <rbd/librbd.h>
//
// static int progress(uint64_t offset, uint64_t total, void *ptr) { return 0; }
//
// static int rebuild(rados_ioctx_t io, const char *name) {
//   rbd_image_t image;
//   int r = rbd_open(io, name, &image, NULL);
//   if (r < 0) return r;
//   r = rbd_rebuild_object_map(image, progress, NULL);
//   int c = rbd_close(image);
//   return r < 0 ? r : c;
// }
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/ceph/go-ceph/rados"
)

// rebuildObjectMap has the library look at every object of an image and write down
// which exist. The binding lacks the call.
func rebuildObjectMap(io *rados.IOContext, image string) error {
	name := C.CString(image)
	defer C.free(unsafe.Pointer(name))
	if r := C.rebuild(C.rados_ioctx_t(io.Pointer()), name); r < 0 {
		return codedError{syscall.Errno(-r), fmt.Sprintf("rebuild the object map of %s", image)}
	}
	return nil
}

// codedError is an error of the library with its number.
type codedError struct {
	n  syscall.Errno
	op string
}

func (e codedError) Error() string  { return e.op + ": " + e.n.Error() }
func (e codedError) ErrorCode() int { return -int(e.n) }
