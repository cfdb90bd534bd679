package driver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// Metrics counts CSI calls. A nil one counts nothing.
type Metrics struct {
	seconds *prometheus.HistogramVec
	flying  *prometheus.GaugeVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "strata_csi_call_seconds",
			Help: "Time to answer a CSI call, by method and gRPC code.",
			// From what is answered out of memory to what kubelet waits for at most.
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60, 120},
		}, []string{"method", "code"}),
		flying: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "strata_csi_calls_in_flight",
			Help: "CSI calls that are not answered yet, by method.",
		}, []string{"method"}),
	}
	for _, c := range []prometheus.Collector{m.seconds, m.flying} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) begin(method string) {
	if m != nil {
		m.flying.WithLabelValues(method).Inc()
	}
}

func (m *Metrics) end(method string, code codes.Code, took time.Duration) {
	if m != nil {
		m.flying.WithLabelValues(method).Dec()
		m.seconds.WithLabelValues(method, code.String()).Observe(took.Seconds())
	}
}
