package nbd

import "context"

// Backend tells a Server what it exports. Methods are called concurrently, each
// on behalf of the connection c. They refuse with a *Refusal. The context ends
// when the connection is cut or the server shuts down.
type Backend interface {
	// Describe answers INFO and the checks before GO, without side effects.
	Describe(ctx context.Context, name string, c *Conn) (ExportInfo, error)
	// Contexts lists the metadata contexts of an export that match query: "" means
	// all, a text that ends in ':' all that begin with it, anything else that one.
	// Unknown names are no error; they match nothing.
	Contexts(ctx context.Context, name, query string, c *Conn) ([]string, error)
	// Open begins the transmission phase of c. It may wait, for instance until
	// connections that it has Cut are Done.
	Open(ctx context.Context, name string, c *Conn) (Export, error)
	// List names the exports that this client may know of.
	List(ctx context.Context, c *Conn) ([]ListEntry, error)
}

// ListEntry is one export in the answer to LIST.
type ListEntry struct {
	Name        string
	Description string
}

// ExportInfo is what a client is told of an export.
type ExportInfo struct {
	// Size in bytes, a multiple of MinBlock.
	Size int64
	// ReadOnly: writing, trimming and zeroing answer EPERM and are not offered.
	ReadOnly bool
	// MinBlock and PreferredBlock are powers of two in bytes; 0 means 1 and 4096.
	MinBlock, PreferredBlock uint32
	// MaxPayload is the largest read or write in bytes; 0 means MaxPayload, which
	// is also the most.
	MaxPayload uint32
	// MultiConn: several connections may be used as one; a flush on any of them
	// covers all.
	MultiConn bool
	// Rotational: the medium has expensive seeks.
	Rotational bool
	// Description is for human eyes.
	Description string
}

// Export serves the requests of one connection. Offsets and lengths are bytes and
// lie within Info().Size. All methods but Close are called concurrently. An error
// with a method Errno() Errno answers with that number, any other with EIO.
type Export interface {
	// Info describes the export. It is asked once, after Open.
	Info() ExportInfo
	// Read fills p from off, wholly or with an error.
	Read(p []byte, off int64) error
	// Write writes p at off, durably if fua is set. p must not be kept.
	Write(p []byte, off int64, fua bool) error
	// Flush makes all writes that returned before it, on any connection, durable.
	Flush() error
	// Trim gives up what it can of a range; 0 < n < 4 GiB.
	Trim(off, n int64, fua bool) error
	// Zero makes a range read as zero, keeping its space if noHole is set; 0 < n <
	// 4 GiB.
	Zero(off, n int64, fua, noHole bool) error
	// Cache prepares for reads of a range. It may do nothing.
	Cache(off, n int64) error
	// Extents reports the flags of a metadata context for consecutive extents from
	// off, until n bytes are covered or emit returns false. What it reports beyond
	// the range is ignored.
	Extents(context string, off, n int64, emit func(length int64, flags uint64) bool) error
	// Close is called once, after the last request of the connection.
	Close() error
}

// Limited is an Export that lets requests wait for their turn, so that its clients do
// not more than they may.
type Limited interface {
	Export
	// Admit is called once for each read, write, trim and write of zeroes before it is
	// served, with the bytes that it carries, and may wait; a flush is never held up.
	// An error is the answer of the request.
	Admit(bytes int64) error
	// Limits tells whether requests may have to wait now. Then the connection gets
	// less of the memory that all of them share, since it holds it for longer.
	Limits() bool
}

// Resizable is an Export that can grow while it is in use.
type Resizable interface {
	Export
	// Size is the size now, in bytes. It is asked when a request ends beyond the size
	// that is known.
	Size() int64
}

// MaxPayload is the largest payload of a request or reply, in bytes.
const MaxPayload = 32 << 20

// normal fills in defaults and bounds what a backend says.
func (i ExportInfo) normal() ExportInfo {
	if i.MinBlock == 0 {
		i.MinBlock = 1
	}
	if i.PreferredBlock == 0 {
		i.PreferredBlock = 4096
	}
	i.PreferredBlock = max(i.PreferredBlock, i.MinBlock, 512)
	if i.MaxPayload == 0 || i.MaxPayload > MaxPayload {
		i.MaxPayload = MaxPayload
	}
	return i
}

// flags are the transmission flags of an export. Only what works is offered.
func (i ExportInfo) flags(structured bool) uint16 {
	f := uint16(txHasFlags | txSendFlush | txSendFUA | txSendCache)
	if i.ReadOnly {
		f |= txReadOnly
	} else {
		f |= txSendTrim | txSendWriteZeroes | txSendFastZero
	}
	if i.MultiConn {
		f |= txCanMultiConn
	}
	if i.Rotational {
		f |= txRotational
	}
	if structured {
		f |= txSendDF
	}
	return f
}
