package nbd

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What the kernel answers when it is given a connection, and what its user is told to do.
func TestKernelTLSAdvice(t *testing.T) {
	suite := kernelSuite{modules: "gcm"}
	keys := func(err error) error { return noKeys(err, "sending", suite) }
	for name, c := range map[string]struct {
		tell  func(error) error
		errno unix.Errno
		want  string
	}{
		"no module":        {noTLS, unix.ENOENT, "modprobe tls"},
		"an old kernel":    {noTLS, unix.ENOPROTOOPT, "a kernel from 6.1 on with CONFIG_TLS"},
		"no memory":        {noTLS, unix.ENOMEM, "did not make"},
		"no cipher":        {keys, unix.ENOENT, "modprobe gcm"},
		"an old TLS":       {keys, unix.EINVAL, "a kernel from 6.1 on"},
		"no memory either": {keys, unix.ENOMEM, "keys for sending"},
	} {
		err := c.tell(c.errno)
		if !errors.Is(err, ErrNoKernelTLS) || !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(err.Error(), "modprobe") != strings.HasPrefix(c.want, "modprobe") {
			t.Errorf("%s: %v: a module does not help", name, err)
		}
	}
	if err := noTLS(unix.ENOTCONN); !errors.Is(err, errEnded) || errors.Is(err, ErrNoKernelTLS) {
		t.Errorf("a connection that the server has ended: %v", err)
	}
}
