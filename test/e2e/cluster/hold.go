package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
)

// What only the process that started the cluster can do: its children end by it. Others
// that are attached ask it over a socket. A request is a line, "VERB NAME"; the reply is
// what went wrong, empty when nothing did, and ends with the connection.
const (
	verbStop     = "stop"
	verbRestart  = "restart"
	verbPowerOff = "power-off"
	verbPowerOn  = "power-on"
)

// holder serves such requests.
type holder struct {
	c    *Cluster
	l    net.Listener
	wait sync.WaitGroup
}

func (c *Cluster) socket() string { return c.path("hold.sock") }

// hold begins to serve requests until close.
func (c *Cluster) hold(ctx context.Context) (*holder, error) {
	l, err := net.Listen("unix", c.socket())
	if err != nil {
		return nil, fmt.Errorf("listen for requests: %w", err)
	}
	h := &holder{c: c, l: l}
	h.wait.Go(func() { h.accept(ctx) })
	return h, nil
}

func (h *holder) accept(ctx context.Context) {
	for {
		conn, err := h.l.Accept()
		if err != nil {
			return // closed
		}
		h.wait.Go(func() {
			defer func() { _ = conn.Close() }()
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err == nil {
				verb, name, _ := strings.Cut(strings.TrimSpace(line), " ")
				err = h.c.do(ctx, verb, name)
			}
			if err != nil {
				_, _ = io.WriteString(conn, err.Error())
			}
		})
	}
}

// close ends the service after the requests under way.
func (h *holder) close() error {
	err := h.l.Close()
	h.wait.Wait()
	return err
}

// do does what a request asks for.
func (c *Cluster) do(ctx context.Context, verb, name string) error {
	switch verb {
	case verbStop:
		return c.Stop(name)
	case verbRestart:
		return c.Restart(ctx, name)
	case verbPowerOff:
		return c.PowerOff(name)
	case verbPowerOn:
		return c.PowerOn(name)
	}
	return fmt.Errorf("there is no request %q", verb)
}

// ask asks the process that holds the cluster to do something.
func (c *Cluster) ask(verb, name string) error {
	conn, err := net.Dial("unix", c.socket())
	if err != nil {
		return fmt.Errorf("%s %s: reach who holds the cluster: %w", verb, name, err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "%s %s\n", verb, name); err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	reply, err := io.ReadAll(conn)
	if err == nil && len(reply) > 0 {
		err = errors.New(string(reply))
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	return nil
}

// Attach returns a cluster that another process runs in these namespaces and holds.
func Attach(o Options) (*Cluster, error) {
	c := &Cluster{opts: o, attached: true}
	if _, err := os.Stat(c.socket()); err != nil {
		return nil, fmt.Errorf("attach to the cluster of %s: %w", o.Work, err)
	}
	for i := 1; i <= o.Guests; i++ {
		c.guests = append(c.guests, &guest{number: i, dir: c.path(GuestNode(i))})
	}
	return c, c.connect()
}
