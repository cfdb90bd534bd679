package driver

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/stage"
)

// NodeEvents makes log lines and metrics of what happens unasked on a node. Its method
// Notify goes into stage.Config.
type NodeEvents struct {
	log    klog.Logger
	events *prometheus.CounterVec
	outage prometheus.Histogram
}

// NewNodeEvents makes the metrics and registers them; without a registerer there are none.
func NewNodeEvents(log klog.Logger, r prometheus.Registerer) (*NodeEvents, error) {
	e := &NodeEvents{log: log,
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strata_node_events_total",
			Help: "Events of volumes on this node, by kind: links lost, restored and renewed, fenced volumes, orphans.",
		}, []string{"kind"}),
		outage: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "strata_node_link_outage_seconds",
			Help:    "For how long devices were without a connection to their store.",
			Buckets: []float64{.05, .2, .5, 1, 2, 5, 10, 30, 60, 300, 3600},
		}),
	}
	if r == nil {
		return e, nil
	}
	for _, c := range []prometheus.Collector{e.events, e.outage} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Notify takes in an event.
func (e *NodeEvents) Notify(ev stage.Event) {
	e.events.WithLabelValues(string(ev.Kind)).Inc()
	log := e.log.WithValues("volume", ev.Volume, "device", ev.Device, "event", string(ev.Kind))
	switch ev.Kind {
	case stage.LinkBack:
		e.outage.Observe(ev.After.Seconds())
		log.Info("The device is connected again", "after", ev.After)
	case stage.LinkLost:
		log.Info("The device has lost its store; its I/O waits")
	case stage.LinkRetry:
		log.Info("The device could not be connected; trying again", "err", ev.Err)
	case stage.LinkRenewed:
		log.Info("The device's connection was replaced because of its key's age")
	case stage.Fenced:
		log.Error(ev.Err, "This node has lost the right to the volume; its I/O fails")
	case stage.Orphan:
		if ev.Err != nil {
			log.Error(ev.Err, "A device without a record was left alone")
			return
		}
		log.Info("A device without a record was ended")
	case stage.Dropped:
		log.Info("A record without device and mount was removed; the host was started anew")
	case stage.Damaged:
		log.Error(ev.Err, "A damaged record was put aside")
	case stage.Ungrouped:
		log.Info("Programs run in this process' own control group; one that hangs on a device keeps its container from being started anew", "err", ev.Err)
	default:
		log.Info("Event", "err", ev.Err)
	}
}

// NodeCollector tells of the volumes on a node at the time it is asked.
type NodeCollector struct {
	stage *stage.Service
	state *prometheus.Desc
	count *prometheus.Desc
}

// NewNodeCollector makes a collector; the caller registers it.
func NewNodeCollector(s *stage.Service) *NodeCollector {
	return &NodeCollector{
		stage: s,
		state: prometheus.NewDesc("strata_node_volume_link", "1 for the state of each volume's link: up, down or fenced.", []string{"volume", "device", "state"}, nil),
		count: prometheus.NewDesc("strata_node_volumes", "Volumes on this node.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *NodeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.state
	ch <- c.count
}

// Collect implements prometheus.Collector.
func (c *NodeCollector) Collect(ch chan<- prometheus.Metric) {
	list := c.stage.List()
	ch <- prometheus.MustNewConstMetric(c.count, prometheus.GaugeValue, float64(len(list)))
	for _, v := range list {
		state := "up"
		switch {
		case v.Health.Fenced != "":
			state = "fenced"
		case !v.Health.Lost.IsZero():
			state = "down"
		}
		ch <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, 1, v.Volume, v.Device, state)
	}
}
