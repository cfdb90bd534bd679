package app

import (
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/export"
	"github.com/strata-csi/strata/pkg/nbd"
)

// exports makes the NBD server over the registry of who may use what.
func (p *process) exports() {
	log := klog.LoggerWithName(p.log, "nbd")
	// Over TLS, roles say who may use plain names.
	p.registry = export.New(p.backend, export.Config{PlainOverTCP: p.cfg.OpenTCP || p.cfg.TLS.Set()})
	p.nbd = nbd.NewServer(guard{p.registry, p.cfg.OpenTCP}, nbd.Config{Closed: func(c *nbd.Conn, err error) {
		// Export names may hold tokens; an error of the peer does not name them.
		if err != nil {
			log.V(2).Info("Connection ended", "peer", c.String(), "err", p.cfg.TLS.Explain(err))
			return
		}
		log.V(4).Info("Connection closed", "peer", c.String())
	}})
	p.stack.push("NBD", p.nbd.Close)
}
