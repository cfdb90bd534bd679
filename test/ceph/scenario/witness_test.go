//go:build ceph

package scenario

import (
	"context"
	"fmt"
	"strings"

	"github.com/strata-csi/strata/pkg/store"
)

// imageInfo is what rbd info says.
type imageInfo struct {
	ID     string `json:"id"`
	Size   int64  `json:"size"`
	Parent *struct {
		Pool     string `json:"pool"`
		Image    string `json:"image"`
		Snapshot string `json:"snapshot"`
		Trash    bool   `json:"trash"`
		Overlap  int64  `json:"overlap"`
	} `json:"parent"`
}

func (r *rig) info(ctx context.Context, spec string) (i imageInfo) {
	r.Helper()
	r.must(r.c.RbdJSON(ctx, &i, "info", spec))
	return i
}

// strataImages lists the images of the installation that rbd shows, by their ids.
func (r *rig) strataImages(ctx context.Context) map[store.ID]bool {
	r.Helper()
	var names []string
	r.must(r.c.RbdJSON(ctx, &names, "ls", cephPool))
	ids := make(map[store.ID]bool)
	for _, n := range names {
		id, ok := strings.CutPrefix(n, "strata.default.")
		if !ok {
			r.Errorf("the pool has an image that is not the installation's: %s", n)
		}
		ids[store.ID(id)] = true
	}
	return ids
}

// children lists the clones of an image's snapshots, whatever namespace these are in.
func (r *rig) children(ctx context.Context, spec string) (names []string) {
	r.Helper()
	var list []struct {
		Pool  string `json:"pool"`
		Image string `json:"image"`
		Trash bool   `json:"trash"`
	}
	r.must(r.c.RbdJSON(ctx, &list, "children", "--all", spec))
	for _, c := range list {
		names = append(names, fmt.Sprintf("%s/%s", c.Pool, c.Image))
	}
	return names
}

// inTrash lists the ids of images in the cluster's trash.
func (r *rig) inTrash(ctx context.Context) (names []string) {
	r.Helper()
	var list []struct {
		Name string `json:"name"`
	}
	r.must(r.c.RbdJSON(ctx, &list, "trash", "ls", cephPool, "--all"))
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// used is what rbd du says an image has of its own now, snapshots apart, in bytes.
func (r *rig) used(ctx context.Context, id store.ID) int64 {
	r.Helper()
	var du struct {
		Images []struct {
			Name     string `json:"name"`
			Snapshot string `json:"snapshot"`
			Used     int64  `json:"used_size"`
		} `json:"images"`
	}
	r.must(r.c.RbdJSON(ctx, &du, "du", inCluster(id)))
	for _, i := range du.Images {
		if i.Snapshot == "" {
			return i.Used
		}
	}
	r.Fatalf("rbd du says nothing of %s", id)
	return 0
}
