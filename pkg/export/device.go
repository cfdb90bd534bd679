package export

import (
	"context"

	"github.com/strata-csi/strata/pkg/store"
)

// device is a store.Device shared by all connections to an object. It is open
// while somebody holds it.
type device struct {
	src  Source
	id   store.ID
	gate chan struct{} // held while it is opened or closed

	refs int
	dev  store.Device
}

// open takes a share.
func (d *device) open(ctx context.Context) (store.Device, error) {
	select {
	case d.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-d.gate }()
	if d.refs == 0 {
		dev, err := d.src.Open(ctx, d.id)
		if err != nil {
			return nil, err
		}
		d.dev = dev
	}
	d.refs++
	return d.dev, nil
}

// close gives a share back; the last one closes the device.
func (d *device) close() error {
	d.gate <- struct{}{}
	defer func() { <-d.gate }()
	d.refs--
	if d.refs > 0 {
		return nil
	}
	dev := d.dev
	d.dev = nil
	return dev.Close()
}
