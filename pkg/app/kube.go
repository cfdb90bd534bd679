package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/driver"
	"github.com/strata-csi/strata/pkg/kube"
	"github.com/strata-csi/strata/pkg/pool"
	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/volume"
)

// KubeEvents says whether users are told of their volumes by events in a cluster.
type KubeEvents string

const (
	// KubeEventsAuto: if the process runs in a pod.
	KubeEventsAuto KubeEvents = "auto"
	// KubeEventsOn: in any case; the start fails outside of a pod.
	KubeEventsOn KubeEvents = "on"
	// KubeEventsOff: not at all.
	KubeEventsOff KubeEvents = "off"
)

// Set implements the value of a flag.
func (e *KubeEvents) Set(s string) error {
	switch k := KubeEvents(s); k {
	case KubeEventsAuto, KubeEventsOn, KubeEventsOff:
		*e = k
		return nil
	}
	return errors.New("want auto, on or off")
}

func (e *KubeEvents) String() string { return string(*e) }

// Type implements the value of a flag.
func (e *KubeEvents) Type() string { return "auto|on|off" }

// events makes the recorder of events; nil if there shall be none. A cluster that does
// not answer holds up nothing.
func (d *daemon) events(mode KubeEvents, version, host string) (*kube.Recorder, error) {
	if mode == KubeEventsOff || mode != KubeEventsOn && !kube.InCluster() {
		return nil, nil
	}
	cluster, err := kube.Connect("strata/" + version)
	if err != nil {
		return nil, fmt.Errorf("events in the cluster: %w; to do without: --kube-events=off", err)
	}
	return d.recorder(cluster, host), nil
}

// recorder starts a recorder and tells of it in the metrics.
func (d *daemon) recorder(cluster *kube.Cluster, host string) *kube.Recorder {
	log := klog.LoggerWithName(d.log, "events")
	r := kube.NewRecorder(cluster, kube.Options{Driver: driver.Name, Host: host, Failed: func(err error) {
		log.Error(err, "Users are not told of what happens to their volumes")
	}})
	d.stack.pushPlain("events", r.Close)
	for result, count := range map[string]func(kube.Stats) uint64{
		"delivered": func(s kube.Stats) uint64 { return s.Delivered },
		"dropped":   func(s kube.Stats) uint64 { return s.Dropped },
		"unclaimed": func(s kube.Stats) uint64 { return s.Unclaimed },
	} {
		d.web.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "strata_kube_events_total",
			Help:        "Events for users of volumes: delivered; dropped, since the cluster did not take them; unclaimed, since it does not know the volume.",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(count(r.Stats())) }))
	}
	return r
}

// watchStores follows what stores do to volumes in the background.
func (d *daemon) watchStores(pools *pool.Set, r *kube.Recorder) *kube.Watcher {
	w := kube.Watch(kube.WatchOptions{Tell: r.Tell, Sources: func(ctx context.Context) []kube.Source {
		return sources(ctx, pools)
	}})
	d.stack.pushPlain("watch of stores", w.Close)
	return w
}

// sources are the stores of all pools that answer, each once.
func sources(ctx context.Context, pools *pool.Set) (all []kube.Source) {
	known := make(map[string]bool)
	for _, name := range pools.Names() {
		view, err := pools.View(ctx, name)
		if err != nil {
			continue // requests to the pool say what is wrong
		}
		for _, m := range view.Members {
			if !known[m.UUID] {
				known[m.UUID] = true
				all = append(all, kube.Source{UUID: m.UUID, Store: m.Remote, Faulty: m.Status.Faulty})
			}
		}
	}
	return all
}

// deepened tells a watcher of a clone that its store has to do something about.
func deepened(w *kube.Watcher, e volume.Event) {
	if w != nil && e.Kind == volume.Deepened {
		w.Deepened(kube.Deep{Store: e.Store, Image: e.ID, Name: e.Image, Depth: e.Depth, Soft: e.Soft})
	}
}

// fenced tells the user of a volume that its node has lost the right to it.
func fenced(r *kube.Recorder, node string, e stage.Event) {
	if r == nil || e.Kind != stage.Fenced {
		return
	}
	r.Tell(kube.Notice{
		About:  kube.Subject{Handle: e.Volume, Paths: e.Paths, Node: node},
		Reason: kube.VolumeFenced, Key: fmt.Sprint(e.Epoch),
		Text: fmt.Sprintf("Node %s has lost the right to volume %s: its I/O there fails until it is mounted anew: %v", node, e.Volume, e.Err),
	})
}
