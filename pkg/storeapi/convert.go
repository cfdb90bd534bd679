package storeapi

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/storeapi/storepb"
)

func infoToProto(i store.Info) *storepb.Info {
	return &storepb.Info{
		Id:             string(i.ID),
		Kind:           string(i.Kind),
		Name:           i.Name,
		Image:          string(i.Image),
		ImageName:      i.ImageName,
		ImageRemoved:   i.ImageRemoved,
		Parent:         string(i.Parent),
		ParentName:     i.ParentName,
		ParentSnapshot: string(i.ParentSnapshot),
		Depth:          int64(i.Depth),
		Size:           i.Size,
		Overlap:        i.Overlap,
		BlockSize:      int64(i.BlockSize),
		State:          string(i.State),
		Reason:         clip(i.Reason),
		Policy:         policyToProto(i.Policy),
		Created:        timeToProto(i.Created),
		Snapshots:      int64(i.Snapshots),
		Node:           i.Node,
		Digest:         []byte(i.Digest),
		Limits:         limitsToProto(i.Limits),
		Format:         string(i.Format),
	}
}

func infoFromProto(p *storepb.Info) store.Info {
	return store.Info{
		ID:             store.ID(p.GetId()),
		Kind:           store.Kind(p.GetKind()),
		Name:           p.GetName(),
		Image:          store.ID(p.GetImage()),
		ImageName:      p.GetImageName(),
		ImageRemoved:   p.GetImageRemoved(),
		Parent:         store.ID(p.GetParent()),
		ParentName:     p.GetParentName(),
		ParentSnapshot: store.ID(p.GetParentSnapshot()),
		Depth:          int(p.GetDepth()),
		Size:           p.GetSize(),
		Overlap:        p.GetOverlap(),
		BlockSize:      int(p.GetBlockSize()),
		State:          store.State(p.GetState()),
		Reason:         p.GetReason(),
		Policy:         policyFromProto(p.GetPolicy()),
		Created:        timeFromProto(p.GetCreated()),
		Snapshots:      int(p.GetSnapshots()),
		Node:           p.GetNode(),
		Digest:         string(p.GetDigest()),
		Limits:         limitsFromProto(p.GetLimits()),
		Format:         store.Format(p.GetFormat()),
	}
}

func policyToProto(p store.Policy) *storepb.Policy {
	return &storepb.Policy{Soft: int64(p.Soft), Hard: int64(p.Hard)}
}

func policyFromProto(p *storepb.Policy) store.Policy {
	return store.Policy{Soft: int(p.GetSoft()), Hard: int(p.GetHard())}
}

func limitsToProto(l store.Limits) *storepb.Limits {
	return &storepb.Limits{Iops: l.IOPS, Bandwidth: l.Bandwidth}
}

func limitsFromProto(p *storepb.Limits) store.Limits {
	return store.Limits{IOPS: p.GetIops(), Bandwidth: p.GetBandwidth()}
}

func changeToProto(image store.ID, c store.Change) *storepb.ModifyRequest {
	r := &storepb.ModifyRequest{Image: string(image)}
	if c.Policy != nil {
		r.Policy = policyToProto(*c.Policy)
	}
	if c.Limits != nil {
		r.Limits = limitsToProto(*c.Limits)
	}
	if c.Format != nil {
		r.Format = (*string)(c.Format)
	}
	return r
}

func changeFromProto(r *storepb.ModifyRequest) store.Change {
	var c store.Change
	if r.Policy != nil {
		p := policyFromProto(r.Policy)
		c.Policy = &p
	}
	if r.Limits != nil {
		l := limitsFromProto(r.Limits)
		c.Limits = &l
	}
	c.Format = (*store.Format)(r.Format)
	return c
}

// timeToProto keeps the zero time as absent, so that it comes back as zero.
func timeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeFromProto(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func specToProto(s store.Spec) *storepb.CreateRequest {
	return &storepb.CreateRequest{
		Name:      s.Name,
		Size:      s.Size,
		Parent:    string(s.Parent),
		BlockSize: int64(s.BlockSize),
		Policy:    policyToProto(s.Policy),
		Digest:    []byte(s.Digest),
		Flatten:   s.Flatten,
		Limits:    limitsToProto(s.Limits),
	}
}

func specFromProto(r *storepb.CreateRequest) store.Spec {
	return store.Spec{
		Name:      r.GetName(),
		Size:      r.GetSize(),
		Parent:    store.ID(r.GetParent()),
		BlockSize: int(r.GetBlockSize()),
		Policy:    policyFromProto(r.GetPolicy()),
		Digest:    string(r.GetDigest()),
		Flatten:   r.GetFlatten(),
		Limits:    limitsFromProto(r.GetLimits()),
	}
}

func usageToProto(u store.Usage) *storepb.UsageReply {
	return &storepb.UsageReply{
		Id: string(u.ID), Size: u.Size, Own: u.Own, Shared: u.Shared,
		Retained: u.Retained, RetainedFor: u.RetainedFor,
	}
}

func usageFromProto(p *storepb.UsageReply) store.Usage {
	return store.Usage{
		ID: store.ID(p.GetId()), Size: p.GetSize(), Own: p.GetOwn(), Shared: p.GetShared(),
		Retained: p.GetRetained(), RetainedFor: p.GetRetainedFor(),
	}
}

func extentToProto(e store.Extent) *storepb.Extent {
	return &storepb.Extent{
		Offset: e.Offset, Length: e.Length, Data: e.Data, Zero: e.Zero,
		Depth: int64(e.Depth), Changed: e.Changed,
	}
}

func extentFromProto(p *storepb.Extent) store.Extent {
	return store.Extent{
		Offset: p.GetOffset(), Length: p.GetLength(), Data: p.GetData(), Zero: p.GetZero(),
		Depth: int(p.GetDepth()), Changed: p.GetChanged(),
	}
}

func problemToProto(p store.Problem) *storepb.Problem {
	return &storepb.Problem{Object: p.Object, Text: clip(p.Text), Harmless: p.Harmless}
}

func problemFromProto(p *storepb.Problem) store.Problem {
	return store.Problem{Object: p.GetObject(), Text: p.GetText(), Harmless: p.GetHarmless()}
}

func publicationToProto(p store.Publication) *storepb.Publication {
	return &storepb.Publication{
		Id: string(p.ID), Node: p.Node, Access: string(p.Access), Target: string(p.Target), Epoch: p.Epoch, Token: p.Token,
		Connected: p.Connected,
	}
}

func publicationFromProto(p *storepb.Publication) store.Publication {
	return store.Publication{
		ID: store.ID(p.GetId()), Node: p.GetNode(), Access: store.Access(p.GetAccess()), Target: store.ID(p.GetTarget()),
		Epoch: p.GetEpoch(), Token: p.GetToken(), Connected: p.GetConnected(),
	}
}

func jobToProto(j store.Job) *storepb.Job {
	return &storepb.Job{
		Id: j.ID, Kind: string(j.Kind), Target: j.Target, State: string(j.State),
		Done: j.Done, Total: j.Total, Copied: j.Copied, Urgent: j.Urgent, Error: clip(j.Error),
	}
}

func jobFromProto(p *storepb.Job) store.Job {
	return store.Job{
		ID: p.GetId(), Kind: store.JobKind(p.GetKind()), Target: p.GetTarget(),
		State: store.JobState(p.GetState()), Done: p.GetDone(), Total: p.GetTotal(),
		Copied: p.GetCopied(), Urgent: p.GetUrgent(), Error: p.GetError(),
	}
}

func statusToProto(s store.Status) *storepb.StatusReply {
	return &storepb.StatusReply{
		Uuid: s.UUID, Backend: s.Backend, Version: s.Version, Node: s.Node,
		Images: int64(s.Images), Snapshots: int64(s.Snapshots), Layers: int64(s.Layers),
		Total: s.Total, Free: s.Free, Copied: s.Copied,
		Jobs:     convert(s.Jobs, jobToProto),
		Faulty:   convert(s.Faulty, problemToProto),
		Warnings: s.Warnings,
	}
}

func statusFromProto(p *storepb.StatusReply) store.Status {
	return store.Status{
		UUID: p.GetUuid(), Backend: p.GetBackend(), Version: p.GetVersion(), Node: p.GetNode(),
		Images: int(p.GetImages()), Snapshots: int(p.GetSnapshots()), Layers: int(p.GetLayers()),
		Total: p.GetTotal(), Free: p.GetFree(), Copied: p.GetCopied(),
		Jobs:     convert(p.GetJobs(), jobFromProto),
		Faulty:   convert(p.GetFaulty(), problemFromProto),
		Warnings: p.GetWarnings(),
	}
}

func convert[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}
