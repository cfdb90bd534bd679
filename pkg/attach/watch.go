package attach

import (
	"context"
	"fmt"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls fn with the index of every device whose connection the kernel reports
// dead, until the context ends. It is a hint: the index may be another's by then, a
// report may come twice or for a device that has been reconnected since. Where the
// kernel's reports cannot be had, fn is called for every device of ours every
// Config.Poll; where some were lost, once. fn must not block; one Watch never calls it
// twice at once.
//
// First of all it sets devices right that a process has left which died in the middle of
// a Resize: their I/O would fail when a store is away for half a minute.
func (k *Kernel) Watch(ctx context.Context, fn func(index int)) {
	leave, err := k.join()
	if err != nil {
		return
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(k.quit, cancel)()
	k.heal(ctx)
	for ctx.Err() == nil {
		if err := k.listen(ctx, fn); is(err, unix.ENOBUFS) {
			k.remind(ctx, fn) // reports were lost
			continue
		}
		pause := time.NewTimer(k.cfg.Poll)
		select {
		case <-pause.C:
			k.remind(ctx, fn)
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// heal takes the limits of a Resize away from devices that still have them, which their
// request timer tells. What fails here is done by the next Reconnect.
func (k *Kernel) heal(ctx context.Context) {
	ours, err := k.Devices(ctx)
	if err != nil {
		return
	}
	for _, d := range ours {
		if timer, err := k.timer(d.Index); err == nil && timer != k.cfg.IOTimeout {
			_ = k.disarm(ctx, d)
		}
	}
}

// disarm is heal for one device, when nobody else of this process works on it.
func (k *Kernel) disarm(ctx context.Context, d Device) error {
	_, leave, err := k.enter(ctx, d.Index)
	if err != nil {
		return err
	}
	defer leave()
	if _, err := k.same(d); err != nil {
		return err
	}
	if timer, err := k.timer(d.Index); err != nil || timer == k.cfg.IOTimeout {
		return err // it was being made, or resized, and all is well
	}
	if err := k.call(ctx, timeoutsMessage(d, 0, k.cfg.DeadTimeout), func(error, bool) {}); err != nil {
		return err
	}
	return k.tune(ctx, d.Index, k.cfg.IOTimeout)
}

func (k *Kernel) remind(ctx context.Context, fn func(index int)) {
	ours, err := k.Devices(ctx)
	if err != nil {
		return // without sysfs there is nothing to hint at
	}
	for _, d := range ours {
		fn(d.Index)
	}
}

// listen passes reports on until it fails or the context ends.
func (k *Kernel) listen(ctx context.Context, fn func(index int)) error {
	c, err := k.cfg.dial()
	if err != nil {
		return fmt.Errorf("open generic netlink: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer func() {
		if stop() {
			_ = c.Close()
		}
	}()
	f, err := c.GetFamily(familyName)
	if err != nil {
		return k.noFamily(err)
	}
	if k.otherNetns() {
		return fmt.Errorf("%w: the kernel reports in the initial network namespace only", ErrUnsupported)
	}
	group := uint32(0)
	for _, g := range f.Groups {
		if g.Name == groupName {
			group = g.ID
		}
	}
	if group == 0 {
		return fmt.Errorf("%w: the kernel has no group %s", ErrUnsupported, groupName)
	}
	if err := c.JoinGroup(group); err != nil {
		return fmt.Errorf("join %s: %w", groupName, err)
	}
	for {
		msgs, _, err := c.Receive()
		if err != nil {
			return fmt.Errorf("receive reports: %w", err)
		}
		for _, m := range msgs {
			if index, ok := linkDead(m); ok {
				fn(index)
			}
		}
	}
}

// linkDead reads a report.
func linkDead(m genetlink.Message) (index int, ok bool) {
	if m.Header.Command != cmdLinkDead {
		return 0, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		return 0, false
	}
	for ad.Next() {
		if ad.Type() == attrIndex {
			index, ok = int(ad.Uint32()), true
		}
	}
	return index, ok && ad.Err() == nil
}
