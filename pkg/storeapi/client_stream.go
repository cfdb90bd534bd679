package storeapi

import (
	"context"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi/storepb"
)

// Walk implements store.Store. The store sends the whole walk before it waits for
// fn, so fn may call the store.
func (c *Client) Walk(ctx context.Context, fn func(store.Info) error) error {
	return receive(ctx, c, c.rpc.Walk, &storepb.WalkRequest{}, func(m *storepb.InfoPage) error {
		for _, i := range m.GetItems() {
			if err := fn(infoFromProto(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Flatten implements store.Store.
func (c *Client) Flatten(ctx context.Context, image store.ID) error {
	return c.FlattenProgress(ctx, image, func(store.Job) {})
}

// FlattenProgress is Flatten that calls fn with the job's progress.
func (c *Client) FlattenProgress(ctx context.Context, image store.ID, fn func(store.Job)) error {
	return receive(ctx, c, c.rpc.Flatten, object(image), func(j *storepb.Job) error {
		fn(jobFromProto(j))
		return nil
	}, string(image))
}

// Diff implements store.Inspector. fn runs while the store is in its Diff.
func (c *Client) Diff(ctx context.Context, from, to store.ID, fn func(store.Extent) error) error {
	req := &storepb.DiffRequest{From: string(from), To: string(to)}
	return receive(ctx, c, c.rpc.Diff, req, func(m *storepb.ExtentPage) error {
		for _, e := range m.GetItems() {
			if err := fn(extentFromProto(e)); err != nil {
				return err
			}
		}
		return nil
	}, string(from), string(to))
}

// Children implements store.Inspector.
func (c *Client) Children(ctx context.Context, id store.ID) ([]store.Info, error) {
	var all []store.Info
	err := receive(ctx, c, c.rpc.Children, object(id), func(m *storepb.InfoPage) error {
		all = append(all, convert(m.GetItems(), infoFromProto)...)
		return nil
	}, string(id))
	return all, err
}

// Check implements store.Inspector.
func (c *Client) Check(ctx context.Context, deep bool) ([]store.Problem, error) {
	var all []store.Problem
	err := receive(ctx, c, c.rpc.Check, &storepb.CheckRequest{Deep: deep}, func(m *storepb.ProblemPage) error {
		all = append(all, convert(m.GetItems(), problemFromProto)...)
		return nil
	})
	return all, err
}

// Publications implements store.Publisher.
func (c *Client) Publications(ctx context.Context, id store.ID) ([]store.Publication, error) {
	var all []store.Publication
	err := receive(ctx, c, c.rpc.Publications, object(id), func(m *storepb.PublicationPage) error {
		all = append(all, convert(m.GetItems(), publicationFromProto)...)
		return nil
	}, string(id))
	return all, err
}

// Notes implements store.Notebook. The store sends all before it waits for fn, so fn
// may call the store.
func (c *Client) Notes(ctx context.Context, prefix string, fn func(key, value string) error) error {
	return receive(ctx, c, c.rpc.Notes, &storepb.NotesRequest{Prefix: []byte(prefix)}, func(m *storepb.NotePage) error {
		for _, n := range m.GetItems() {
			if err := fn(string(n.GetKey()), string(n.GetValue())); err != nil {
				return err
			}
		}
		return nil
	})
}

// Jobs implements store.JobRunner.
func (c *Client) Jobs(ctx context.Context) ([]store.Job, error) {
	var all []store.Job
	err := receive(ctx, c, c.rpc.Jobs, &storepb.JobsRequest{}, func(m *storepb.JobPage) error {
		all = append(all, convert(m.GetItems(), jobFromProto)...)
		return nil
	})
	return all, err
}

// WatchJob implements store.JobRunner.
func (c *Client) WatchJob(ctx context.Context, job string, fn func(store.Job) error) error {
	return receive(ctx, c, c.rpc.WatchJob, &storepb.JobRequest{Job: job}, func(j *storepb.Job) error {
		return fn(jobFromProto(j))
	}, job)
}

// Endpoints lists where the store serves NBD: URIs without an export name.
func (c *Client) Endpoints(ctx context.Context) ([]string, error) {
	return call(ctx, c, c.rpc.Endpoints, &storepb.EndpointsRequest{}, (*storepb.EndpointsReply).GetNbd)
}

// URI is where NBD clients find the image or snapshot of that reference or id.
func (c *Client) URI(ctx context.Context, ref string) (string, error) {
	endpoints, err := c.Endpoints(ctx)
	if err != nil {
		return "", err
	}
	t, err := pickEndpoint(c.api, endpoints)
	if err != nil {
		return "", err
	}
	t.Export = ref
	return t.String(), nil
}
