package driver

import (
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/strata-csi/strata/pkg/store"
)

// maxString is the longest name that CSI allows, in bytes.
const maxString = 128

// fileSystems are those that a volume can be given; "" leaves the choice to the node.
var fileSystems = []string{"", "ext4", "ext3", "xfs"}

// validateName accepts the names that CSI allows.
func validateName(name string) error {
	if name == "" {
		return missing("name")
	}
	if len(name) > maxString {
		return invalid("name is %d bytes long, at most %d are allowed", len(name), maxString)
	}
	for _, r := range name {
		if r <= 0x08 || r == 0x0b || r == 0x0c || r >= 0x0e && r <= 0x1f || r >= 0x7f && r <= 0x9f {
			return invalid("name %q contains a control character", name)
		}
	}
	return nil
}

type mode = csi.VolumeCapability_AccessMode_Mode

// The access modes by what they mean here.
var (
	readers = []mode{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
	}
	sharers = []mode{
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER,
	}
	writers = []mode{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
	}
)

// validateCapability accepts a way to use a volume that exists here. Messages do not
// repeat mount flags, which may be sensitive.
func validateCapability(c *csi.VolumeCapability) error {
	m := c.GetAccessMode().GetMode()
	shared := slices.Contains(sharers, m)
	switch {
	case c == nil:
		return missing("volume_capability")
	case c.GetBlock() == nil && c.GetMount() == nil:
		return missing("volume_capability.access_type")
	case c.GetAccessMode() == nil || m == csi.VolumeCapability_AccessMode_UNKNOWN:
		return missing("volume_capability.access_mode")
	case !shared && !slices.Contains(readers, m) && !slices.Contains(writers, m):
		return invalid("access mode %s is not known", m)
	case c.GetMount() != nil && shared:
		return invalid("access mode %s needs a raw block volume: no file system here can be written by several nodes", m)
	case c.GetMount() != nil && !slices.Contains(fileSystems, c.GetMount().GetFsType()):
		return invalid("file system %q is not supported; supported are%s", c.GetMount().GetFsType(), strings.Join(fileSystems, " "))
	}
	return nil
}

func validateCapabilities(all []*csi.VolumeCapability) error {
	if len(all) == 0 {
		return missing("volume_capabilities")
	}
	for i, c := range all {
		if err := validateCapability(c); err != nil {
			return fmt.Errorf("volume_capabilities[%d]: %w", i, err)
		}
	}
	return nil
}

// onlyReads tells whether nobody is ever going to write a volume with these capabilities.
func onlyReads(all []*csi.VolumeCapability) bool {
	return !slices.ContainsFunc(all, func(c *csi.VolumeCapability) bool {
		return !slices.Contains(readers, c.GetAccessMode().GetMode())
	})
}

// accessFor is the right that a node needs to use a volume so. A file system may have to
// replay its journal even where nothing is written, so it reads through a scratch head.
func accessFor(c *csi.VolumeCapability, readOnly bool) store.Access {
	m := c.GetAccessMode().GetMode()
	reads := readOnly || slices.Contains(readers, m)
	switch {
	case reads && c.GetMount() != nil:
		return store.AccessScratch
	case reads:
		return store.AccessRead
	case slices.Contains(sharers, m):
		return store.AccessShared
	}
	return store.AccessWrite
}

// useOf fingerprints a way to use a volume.
func useOf(c *csi.VolumeCapability) string {
	kind := "mount"
	if c.GetBlock() != nil {
		kind = "block"
	}
	return kind + " " + c.GetAccessMode().GetMode().String()
}

// usesOf fingerprints the ways to use a volume, in whatever order they are given.
func usesOf(all []*csi.VolumeCapability) string {
	var uses []string
	for _, c := range all {
		uses = append(uses, useOf(c))
	}
	slices.Sort(uses)
	return strings.Join(slices.Compact(uses), ", ")
}
