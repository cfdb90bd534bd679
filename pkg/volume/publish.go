package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/strata-csi/strata/pkg/failpoint"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/store"
)

// PublishRequest asks for the right of a node to a volume.
type PublishRequest struct {
	// Volume is the volume's id.
	Volume string
	// Node is the name under which the node has registered.
	Node   string
	Access store.Access
	// Use fingerprints how the node is going to use it; opaque. A second request of the
	// same node with another one is refused.
	Use string
}

// Published is a publication and where it is.
type Published struct {
	store.Publication
	Pool string
	// Store is the UUID of the store that has the image.
	Store string
}

// Registration is what a node says of itself in its note.
type Registration struct {
	// MaxVolumes is how many volumes it can take, 0 if it does not say.
	MaxVolumes int64 `json:"maxVolumes"`
}

const nodePrefix = "node/"

func useNote(image store.ID, node string) string {
	key := usePrefix(image) + node
	if len(key) > store.MaxName {
		key = usePrefix(image) + "#" + hash(node)
	}
	return key
}

func usePrefix(image store.ID) string { return "pub/" + string(image) + "/" }

// Publish gives a node the right to a volume, or returns what it has. ErrNotFound:
// volume or node; ErrConflict: the node has it for another use; ErrInUse, naming the
// node: another node has it; ErrLimit: the node can take no more volumes; ErrBusy: the
// volume is still being copied.
func (s *Service) Publish(ctx context.Context, req PublishRequest) (Published, error) {
	want, err := parseID(volumePrefix, req.Volume)
	if err != nil {
		return Published{}, err
	}
	return run(ctx, s, "volume "+want.key(), func(ctx context.Context) (Published, error) {
		f, err := s.find(ctx, want)
		if err != nil {
			return Published{}, err
		}
		p, err := s.publish(ctx, f, req)
		if err != nil {
			return Published{}, fmt.Errorf("publish volume %s to node %s: %w", f.info.Name, req.Node, err)
		}
		return Published{Publication: p, Pool: f.pool, Store: f.m.UUID}, nil
	})
}

func (s *Service) publish(ctx context.Context, f found, req PublishRequest) (store.Publication, error) {
	reg, err := s.node(ctx, f, req.Node)
	if err != nil {
		return store.Publication{}, err
	}
	pubs, err := f.m.Remote.Publications(ctx, f.info.ID)
	if err != nil {
		return store.Publication{}, fmt.Errorf("%s: %w", f.m, err)
	}
	key := useNote(f.info.ID, req.Node)
	use, err := note(ctx, f.m, key)
	if err != nil {
		return store.Publication{}, err
	}
	for _, p := range pubs {
		switch {
		case p.Node == req.Node && (p.Access != req.Access || use != req.Use):
			return p, fmt.Errorf("it is published there for another use: %w", store.ErrConflict)
		case p.Node == req.Node:
			return p, nil
		case !p.Access.Beside(req.Access):
			return p, fmt.Errorf("it is published to node %s (epoch %d): %w", p.Node, p.Epoch, store.ErrInUse)
		}
	}
	if err := s.whole(ctx, f); err != nil {
		return store.Publication{}, err
	}
	leave, err := s.enter(ctx, req.Node)
	if err != nil {
		return store.Publication{}, err
	}
	defer leave()
	if err := s.roomOn(ctx, f, req.Node, reg.MaxVolumes); err != nil {
		return store.Publication{}, err
	}
	if err := swap(ctx, f.m, key, use, req.Use); err != nil {
		return store.Publication{}, err
	}
	failpoint.Hit("volume.publish.noted")
	p, err := f.m.Remote.Publish(ctx, f.info.ID, req.Node, req.Access)
	if err != nil {
		return store.Publication{}, fmt.Errorf("%s: %w", f.m, err)
	}
	failpoint.Hit("volume.publish.published")
	return p, nil
}

// enter makes requests for one node wait for each other, so that counting its volumes
// and adding one are one step.
func (s *Service) enter(ctx context.Context, node string) (leave func(), err error) {
	s.mu.Lock()
	gate := s.nodes[node]
	if gate == nil {
		gate = make(chan struct{}, 1)
		s.nodes[node] = gate
	}
	s.mu.Unlock()
	select {
	case gate <- struct{}{}:
		return func() { <-gate }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// node reads what a node has said of itself, at the image's store or at any other of
// the pool: it may have registered while one was away.
func (s *Service) node(ctx context.Context, f found, name string) (Registration, error) {
	text, err := f.m.Remote.Note(ctx, nodePrefix+name)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
		text, err = s.nodeElsewhere(ctx, f.pool, name)
	}
	if err != nil {
		return Registration{}, err
	}
	var reg Registration
	if err := json.Unmarshal([]byte(text), &reg); err != nil {
		return Registration{}, fmt.Errorf("registration of node %s: %w: %w", name, err, store.ErrCorrupt)
	}
	return reg, nil
}

func (s *Service) nodeElsewhere(ctx context.Context, poolName, name string) (string, error) {
	v, err := s.view(ctx, poolName, s.pools.View)
	if err != nil {
		return "", err
	}
	for _, m := range v.Members {
		if text, err := note(ctx, m, nodePrefix+name); err == nil && text != "" {
			return text, nil
		}
	}
	if err := v.Err(); err != nil {
		return "", err
	}
	return "", fmt.Errorf("no node %q has registered; is strata node running there? %w", name, store.ErrNotFound)
}

// roomOn refuses a node that has as many volumes as it can take, before it gets f: ErrLimit.
func (s *Service) roomOn(ctx context.Context, f found, node string, most int64) error {
	if most <= 0 {
		return nil
	}
	var count int64
	for _, name := range s.pools.Names() {
		v, err := s.pools.View(ctx, name)
		if err != nil {
			return err
		}
		members := v.Members
		if name == f.pool {
			members = beside(v, f.m)
		}
		counts := make([]int64, len(members))
		each(members, func(i int, m pool.Member) {
			pubs, err := m.Remote.Publications(ctx, "")
			if err != nil {
				return // what cannot be counted is not held against the node
			}
			for _, p := range pubs {
				if p.Node == node {
					counts[i]++
				}
			}
		})
		for _, n := range counts {
			count += n
		}
	}
	if count >= most {
		return fmt.Errorf("it has %d volumes and can take %d: %w", count, most, ErrLimit)
	}
	return nil
}

// Unpublish takes the right to a volume from a node, or from all nodes if node is "".
// When it returns nil, no such node can write any more. A volume or publication that
// does not exist is no error.
func (s *Service) Unpublish(ctx context.Context, volume, node string) error {
	want, err := parseID(volumePrefix, volume)
	if err != nil {
		return nil // not ours, so nobody has it
	}
	_, err = run(ctx, s, "volume "+want.key(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.unpublish(ctx, want, node)
	})
	return err
}

func (s *Service) unpublish(ctx context.Context, want id, node string) error {
	f, err := s.find(ctx, want)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	if err := f.m.Remote.Unpublish(ctx, f.info.ID, node); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("unpublish volume %s: %s: %w", f.info.Name, f.m, err)
	}
	failpoint.Hit("volume.unpublish.withdrawn")
	prefix, only := usePrefix(f.info.ID), useNote(f.info.ID, node)
	uses := make(map[string]string)
	err = f.m.Remote.Notes(ctx, prefix, func(key, value string) error {
		if node == "" && strings.HasPrefix(key, prefix) || key == only {
			uses[key] = value
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("unpublish volume %s: %s: %w", f.info.Name, f.m, err)
	}
	for key, value := range uses {
		if err := swap(ctx, f.m, key, value, ""); err != nil {
			return fmt.Errorf("unpublish volume %s: %w", f.info.Name, err)
		}
	}
	failpoint.Hit("volume.unpublish.cleared")
	return nil
}
