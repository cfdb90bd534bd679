package driver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
)

// observer logs and counts every call, and turns panics of handlers into UNAVAILABLE: what
// was done before is not known, and a code such as INTERNAL would promise that it was
// nothing. Work that use-cases do in goroutines of their own ends the process.
type observer struct {
	log     klog.Logger
	metrics *Metrics
	prefix  string // of request ids; differs from process to process
	last    *atomic.Uint64
}

func newObserver(log klog.Logger, m *Metrics) observer {
	var b [4]byte
	_, _ = rand.Read(b[:]) // does not fail
	return observer{log: log, metrics: m, prefix: hex.EncodeToString(b[:]), last: new(atomic.Uint64)}
}

func (o observer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	log := o.log.WithValues("method", method, "request", fmt.Sprintf("%s-%d", o.prefix, o.last.Add(1)))
	log = log.WithValues(objects(req)...)
	began := time.Now()
	o.metrics.begin(method)
	defer func() {
		if p := recover(); p != nil {
			log.Error(fmt.Errorf("panic: %v", p), "Call failed", "stack", string(debug.Stack()))
			reply, err = nil, status.Errorf(codes.Unavailable, "%s failed by a fault of the driver; see its log", method)
		}
		took := time.Since(began)
		o.metrics.end(method, status.Code(err), took)
		finish(log, method, reply, err, took)
	}()
	if v := log.V(level(method)); v.Enabled() {
		v.Info("Call", "with", stripped{req})
	}
	return next(klog.NewContext(ctx, log), req)
}

// level is at which verbosity the calls of a method are logged. Sidecars and kubelet
// make some all the time.
func level(method string) int {
	switch method {
	case "Probe", "GetPluginInfo", "GetPluginCapabilities", "NodeGetCapabilities", "ControllerGetCapabilities", "NodeGetVolumeStats", "NodeGetVolumeHealth":
		return 6
	}
	return 4
}

func finish(log klog.Logger, method string, reply any, err error, took time.Duration) {
	switch status.Code(err) {
	case codes.OK:
		if v := log.V(level(method)); v.Enabled() {
			v.Info("Call answered", "took", took, "reply", stripped{reply})
		}
	case codes.Internal, codes.Unknown, codes.DataLoss:
		log.Error(err, "Call failed", "took", took)
	default:
		log.Info("Call refused", "took", took, "code", status.Code(err), "err", err)
	}
}

// objects names what a request is about, as keys and values for the log.
func objects(req any) []any {
	var kv []any
	add := func(key, value string) {
		if value != "" {
			kv = append(kv, key, value)
		}
	}
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		add("volume", r.GetVolumeId())
	}
	if r, ok := req.(interface{ GetSourceVolumeId() string }); ok {
		add("volume", r.GetSourceVolumeId())
	}
	if r, ok := req.(interface{ GetSnapshotId() string }); ok {
		add("snapshot", r.GetSnapshotId())
	}
	if r, ok := req.(interface{ GetName() string }); ok {
		add("name", r.GetName())
	}
	if r, ok := req.(interface{ GetNodeId() string }); ok {
		add("node", r.GetNodeId())
	}
	return kv
}
