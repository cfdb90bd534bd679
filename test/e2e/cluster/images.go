package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/strata-csi/strata/test/e2e/image"
	"github.com/strata-csi/strata/test/e2e/process"
)

// Names that the runtime and the upstream tests ask for.
const (
	agnhostImage = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
	pauseImage   = "registry.k8s.io/pause:3.10.2"
)

// WorkloadImage is what the pods of scenarios run: busybox with fio. It has the name
// that the upstream storage tests want their busybox under.
const WorkloadImage = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"

// examplesImage is what the pods of deploy/examples ask for as busybox:1.37.
const examplesImage = "docker.io/library/busybox:1.37"

// baseImages writes the images that every node has.
func (c *Cluster) baseImages(ctx context.Context) error {
	pause := image.Image{Names: []string{pauseImage}, Entrypoint: []string{"/pause"},
		Files: map[string]image.File{"pause": {Host: c.bin("pause")}}}
	if err := image.Write(c.path("images/pause.tar"), pause); err != nil {
		return err
	}
	workload := image.Image{Names: []string{WorkloadImage, examplesImage}, Files: map[string]image.File{
		"etc/passwd": {Content: "root:x:0:0:root:/root:/bin/sh\n"},
		"etc/group":  {Content: "root:x:0:\n"},
		"tmp":        {Mode: 0o777}, "root": {Mode: 0o700},
	}}
	if err := image.AddBusybox(ctx, workload.Files); err != nil {
		return err
	}
	for _, program := range []string{"fio", "blkdiscard"} {
		if err := workload.Program(ctx, program); err != nil {
			return err
		}
	}
	if err := image.Write(c.path("images/workload.tar"), workload); err != nil {
		return err
	}
	if err := c.agnhostImage(ctx); err != nil {
		return err
	}
	c.opts.Images = append([]string{c.path("images/pause.tar"), c.path("images/workload.tar"), c.path("images/agnhost.tar")}, c.opts.Images...)
	return nil
}

// agnhostImage writes the image that the upstream tests use for everything that busybox
// does not do, with what tests of storage need of it.
func (c *Cluster) agnhostImage(ctx context.Context) error {
	img := image.Image{Names: []string{agnhostImage}, Entrypoint: []string{"/agnhost"},
		Files: map[string]image.File{"agnhost": {Host: c.bin("agnhost")}, "tmp": {Mode: 0o777}}}
	if err := image.AddBusybox(ctx, img.Files); err != nil {
		return err
	}
	// It enters a node's mount namespace, which needs the real one.
	if err := img.Program(ctx, "nsenter"); err != nil {
		return err
	}
	return image.Write(c.path("images/agnhost.tar"), img)
}

// importBase imports the images of all nodes once, on this machine, where that takes
// seconds: the folder of the runtime is then the start of every node's.
func (c *Cluster) importBase(ctx context.Context) error {
	if err := c.prepareHost(); err != nil {
		return err
	}
	if err := c.host.startContainerd(ctx, c.path("containerd.toml"), c.path("logs")); err != nil {
		return err
	}
	for _, archive := range c.opts.Images {
		if err := c.host.importImage(ctx, archive); err != nil {
			return err
		}
	}
	if err := c.host.containerd.Stop(20 * time.Second); err != nil {
		return err
	}
	at := c.path("base.d/var/lib/containerd")
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	_, err := process.Run(ctx, "cp", "-a", "--reflink=auto", c.path("containerd"), at)
	return err
}

// SidecarImage writes the image of a program that was built with the cluster's, under a
// complete name, and returns the archive.
func (c *Cluster) SidecarImage(program, name string) (string, error) {
	file := c.path(filepath.Join("images", program+".tar"))
	return file, image.Write(file, image.Image{
		Names: []string{name}, Entrypoint: []string{"/" + program},
		Files: map[string]image.File{program: {Host: c.bin(program)}},
	})
}

// Import imports an archive on the nodes named, all when none is.
func (c *Cluster) Import(ctx context.Context, archive string, nodes ...string) error {
	for _, n := range c.nodes(nodes) {
		if err := n.importImage(ctx, archive); err != nil {
			return fmt.Errorf("import %s on %s: %w", filepath.Base(archive), n.nodeName(), err)
		}
	}
	return nil
}

// machine is where a kubelet runs.
type machine interface {
	nodeName() string
	importImage(ctx context.Context, archive string) error
}

func (c *Cluster) nodes(names []string) []machine {
	all := []machine{c.host}
	for _, g := range c.guests {
		all = append(all, g)
	}
	if len(names) == 0 {
		return all
	}
	var some []machine
	for _, m := range all {
		for _, n := range names {
			if m.nodeName() == n {
				some = append(some, m)
			}
		}
	}
	return some
}
