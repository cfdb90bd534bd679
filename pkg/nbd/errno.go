package nbd

import (
	"errors"
	"fmt"
)

// Errno is the error number of a reply. The values are the protocol's, which
// happen to be those of Linux. An Errno is an error and carries itself.
type Errno uint32

// The error numbers that the protocol knows.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// Error names the number as errno(3) does.
func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "operation not permitted (EPERM)"
	case EIO:
		return "input/output error (EIO)"
	case ENOMEM:
		return "out of memory (ENOMEM)"
	case EINVAL:
		return "invalid argument (EINVAL)"
	case ENOSPC:
		return "no space left (ENOSPC)"
	case EOVERFLOW:
		return "request too large (EOVERFLOW)"
	case ENOTSUP:
		return "not supported (ENOTSUP)"
	case ESHUTDOWN:
		return "server is shutting down (ESHUTDOWN)"
	}
	return fmt.Sprintf("nbd error %d", uint32(e))
}

// Errno returns e.
func (e Errno) Errno() Errno { return e }

// errnoOf finds what a client is told of an error of an Export: the number of
// the first error in its chain that has a method Errno() Errno, else EIO.
func errnoOf(err error) Errno {
	var numbered interface{ Errno() Errno }
	if errors.As(err, &numbered) {
		if e := numbered.Errno(); e != 0 {
			return e
		}
	}
	return EIO
}

// Reason says why an export is refused during the handshake.
type Reason uint32

const (
	// Unknown: there is no such export.
	Unknown Reason = repErrUnknown
	// Policy: the export exists or may exist, but not for this client now.
	Policy Reason = repErrPolicy
	// Invalid: the name or option is malformed.
	Invalid Reason = repErrInvalid
	// TLSRequired: not without TLS.
	TLSRequired Reason = repErrTLSReqd
	// Shutdown: the server is going away.
	Shutdown Reason = repErrShutdown
)

// Refusal is the error with which a Backend refuses a client. Message is sent to
// the client; it must hold no secrets. Err, which may be nil, is not sent.
type Refusal struct {
	Reason  Reason
	Message string
	Err     error
}

// Refuse makes a Refusal with a formatted message.
func Refuse(why Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: why, Message: fmt.Sprintf(format, args...)}
}

// Error is the message, followed by the cause if there is one.
func (r *Refusal) Error() string {
	if r.Err != nil {
		return r.Message + ": " + r.Err.Error()
	}
	return r.Message
}

// Unwrap returns Err.
func (r *Refusal) Unwrap() error { return r.Err }

// refusalOf finds the reply to an error of a Backend. An error that is no
// Refusal is reported as unknown export without its text, which may tell more
// than the client should know.
func refusalOf(err error) (Reason, string) {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason, r.Message
	}
	return Unknown, "the export cannot be opened"
}
