package app

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/store"
)

const (
	// scrapeTime bounds what one scrape may ask of a store.
	scrapeTime = 10 * time.Second
	// usageAge is how old accounts of space may be: making them reads every map.
	usageAge = time.Minute
)

// storeMetrics tells of a store. It asks the store anew at each scrape.
type storeMetrics struct {
	src  inspected
	now  func() time.Time
	desc map[string]*prometheus.Desc

	mu      sync.Mutex
	space   map[string]int64 // by kind
	spaceAt time.Time
}

// inspected is what metrics need of a store.
type inspected interface {
	store.Inspector
	Walk(ctx context.Context, fn func(store.Info) error) error
}

var _ prometheus.Collector = (*storeMetrics)(nil)

func newStoreMetrics(src inspected) *storeMetrics {
	m := &storeMetrics{src: src, now: time.Now, desc: make(map[string]*prometheus.Desc)}
	for name, help := range map[string]string{
		"images":               "Images of the store.",
		"snapshots":            "Snapshots of the store.",
		"layers":               "Internal layers, live and retained.",
		"warnings":             "What the operator should know of; see strata status.",
		"faulty_objects":       "Images and snapshots that cannot be read or written.",
		"copied_bytes_total":   "Bytes that background work has copied since the start.",
		"flatten_backlog_jobs": "Flatten jobs that are not done.",
		"up":                   "1 if the store answered this scrape.",
	} {
		m.desc[name] = prometheus.NewDesc("strata_store_"+name, help, nil, nil)
	}
	m.desc["jobs"] = prometheus.NewDesc("strata_store_jobs", "Background jobs that are not done.", []string{"kind", "state"}, nil)
	m.desc["flatten_backlog_bytes"] = prometheus.NewDesc("strata_store_flatten_backlog_bytes", "Bytes that flatten jobs have yet to examine.", nil, nil)
	m.desc["bytes"] = prometheus.NewDesc("strata_store_bytes", "Space by kind: total and free of the file system; own (kept by one object alone), retained (of removed objects) and nominal, summed over images and snapshots.", []string{"kind"}, nil)
	m.desc["clone_depth"] = prometheus.NewDesc("strata_store_clone_depth", "Clone depth of the images.", nil, nil)
	return m
}

// Describe implements prometheus.Collector.
func (m *storeMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.desc {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *storeMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	st, err := m.src.Status(ctx)
	if err != nil {
		m.gauge(ch, "up", 0)
		return
	}
	m.gauge(ch, "up", 1)
	m.gauge(ch, "images", float64(st.Images))
	m.gauge(ch, "snapshots", float64(st.Snapshots))
	m.gauge(ch, "layers", float64(st.Layers))
	m.gauge(ch, "warnings", float64(len(st.Warnings)))
	m.gauge(ch, "faulty_objects", float64(len(st.Faulty)))
	ch <- prometheus.MustNewConstMetric(m.desc["copied_bytes_total"], prometheus.CounterValue, float64(st.Copied))
	m.jobs(ch, st.Jobs)
	m.gauge(ch, "bytes", float64(st.Total), "total")
	m.gauge(ch, "bytes", float64(st.Free), "free")
	m.objects(ctx, ch)
}

func (m *storeMetrics) gauge(ch chan<- prometheus.Metric, name string, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(m.desc[name], prometheus.GaugeValue, value, labels...)
}

func (m *storeMetrics) jobs(ch chan<- prometheus.Metric, jobs []store.Job) {
	type key struct{ kind, state string }
	count := make(map[key]int)
	var backlog, bytes int64
	for _, j := range jobs {
		count[key{string(j.Kind), string(j.State)}]++
		if j.Kind == store.JobFlatten && j.State != store.JobDone {
			backlog++
			bytes += max(0, j.Total-j.Done)
		}
	}
	for k, n := range count {
		m.gauge(ch, "jobs", float64(n), k.kind, k.state)
	}
	m.gauge(ch, "flatten_backlog_jobs", float64(backlog))
	m.gauge(ch, "flatten_backlog_bytes", float64(bytes))
}

// objects tells of depths and space.
func (m *storeMetrics) objects(ctx context.Context, ch chan<- prometheus.Metric) {
	var all []store.ID
	var sum float64
	buckets := map[float64]uint64{0: 0, 1: 0, 2: 0, 4: 0, 8: 0, 16: 0, 32: 0, 64: 0}
	var images uint64
	err := m.src.Walk(ctx, func(i store.Info) error {
		all = append(all, i.ID)
		if i.Kind != store.KindImage {
			return nil
		}
		images++
		sum += float64(i.Depth)
		for limit := range buckets {
			if float64(i.Depth) <= limit {
				buckets[limit]++
			}
		}
		return nil
	})
	if err != nil {
		return
	}
	ch <- prometheus.MustNewConstHistogram(m.desc["clone_depth"], images, sum, buckets)
	for kind, bytes := range m.account(ctx, all) {
		m.gauge(ch, "bytes", float64(bytes), kind)
	}
}

// account sums up what objects hold, anew once a minute at most.
func (m *storeMetrics) account(ctx context.Context, all []store.ID) map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.space != nil && m.now().Sub(m.spaceAt) < usageAge {
		return m.space
	}
	space := map[string]int64{"own": 0, "retained": 0, "nominal": 0}
	for _, id := range all {
		u, err := m.src.Usage(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return m.space // the last accounts, if there are any
		}
		space["own"] += u.Own
		space["retained"] += u.Retained
		space["nominal"] += u.Size
	}
	m.space, m.spaceAt = space, m.now()
	return space
}

// buildInfo is a constant metric that carries the version.
func buildInfo(process, version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "strata_build_info",
		Help:        "Always 1; the labels tell which strata runs, in which role.",
		ConstLabels: prometheus.Labels{"process": process, "version": version},
	})
	g.Set(1)
	return g
}

// trafficMetrics tells what clients do with each image and snapshot that is in use.
type trafficMetrics struct {
	src  func() []export.Traffic
	desc map[string]*prometheus.Desc
}

var _ prometheus.Collector = (*trafficMetrics)(nil)

func newTrafficMetrics(src func() []export.Traffic) *trafficMetrics {
	m := &trafficMetrics{src: src, desc: make(map[string]*prometheus.Desc)}
	object := []string{"id", "name"}
	for name, d := range map[string]struct {
		help   string
		labels []string
	}{
		"requests_total":    {"Requests that ended well, by kind.", []string{"id", "name", "kind"}},
		"bytes_total":       {"Bytes read and written.", []string{"id", "name", "kind"}},
		"errors_total":      {"Requests that were answered with an error.", object},
		"connections":       {"Connections that are open.", object},
		"connections_total": {"Connections so far: each attach and each reconnect is one.", object},
	} {
		m.desc[name] = prometheus.NewDesc("strata_volume_"+name, d.help, d.labels, nil)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *trafficMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.desc {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *trafficMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, t := range m.src() {
		counter := func(name string, value int64, kind ...string) {
			labels := append([]string{string(t.ID), t.Name}, kind...)
			ch <- prometheus.MustNewConstMetric(m.desc[name], prometheus.CounterValue, float64(value), labels...)
		}
		counter("requests_total", t.Reads, "read")
		counter("requests_total", t.Writes, "write")
		counter("requests_total", t.Flushes, "flush")
		counter("requests_total", t.Discards, "discard")
		counter("bytes_total", t.ReadBytes, "read")
		counter("bytes_total", t.WrittenBytes, "write")
		counter("errors_total", t.Errors)
		counter("connections_total", t.Opened)
		ch <- prometheus.MustNewConstMetric(m.desc["connections"], prometheus.GaugeValue, float64(t.Connections), string(t.ID), t.Name)
	}
}
