package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/strata-csi/strata/pkg/stage"
	"github.com/strata-csi/strata/pkg/store"
)

// controlSocket is the name of the socket in a node's state directory through which
// the operator tool asks for devices. Who may use it is said by its mode, 0600.
const controlSocket = "control.sock"

// maxControl bounds a message, in bytes.
const maxControl = 1 << 20

// Mapping is a device on this host, as the operator tool shows it.
type Mapping struct {
	Pool   string   `json:"pool"`
	Image  string   `json:"image"`
	ID     store.ID `json:"id"`
	Device string   `json:"device"`
	Size   int64    `json:"size"`
	// Access is what the device may do: write, read, shared or scratch.
	Access store.Access `json:"access"`
	// Volume is set for devices of the CO, which it alone may end.
	Volume string `json:"volume,omitempty"`
	// Problem is what is wrong with its link, "" if nothing is.
	Problem string `json:"problem,omitempty"`
}

func mapping(v stage.Volume) Mapping {
	m := Mapping{Pool: v.Pool, Image: v.Ref, ID: v.Image, Device: v.Device, Size: v.Size, Access: v.Access}
	if !v.Mapped {
		m.Volume = v.Volume
	}
	switch h := v.Health; {
	case h.Fenced != "":
		m.Problem = "fenced: " + h.Fenced
	case !h.Lost.IsZero():
		m.Problem = fmt.Sprintf("no connection to the store for %v", time.Since(h.Lost).Round(time.Second))
		if h.Problem != "" {
			m.Problem += ": " + h.Problem
		}
	}
	return m
}

// controlFailure is an error on its way through the socket.
type controlFailure struct {
	Text string `json:"text"`
	// Is are the positions in store.Sentinels that it matches.
	Is []int `json:"is,omitempty"`
}

// control answers the operator tool.
func (d *daemon) control(dir, defaultPool string, s *stage.Service) error {
	ln, err := bindUnix(filepath.Join(dir, controlSocket))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /map", func(w http.ResponseWriter, r *http.Request) {
		var req stage.MapRequest
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControl)).Decode(&req); err != nil {
			reply(w, nil, fmt.Errorf("map: %w: %w", err, store.ErrInvalid))
			return
		}
		if req.Pool == "" {
			req.Pool = defaultPool
		}
		v, err := s.Map(r.Context(), req)
		reply(w, mapping(v), err)
	})
	mux.HandleFunc("POST /unmap", func(w http.ResponseWriter, r *http.Request) {
		what, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControl))
		if err == nil {
			err = s.Unmap(r.Context(), inPool(string(what), defaultPool))
		}
		reply(w, struct{}{}, err)
	})
	mux.HandleFunc("GET /mapped", func(w http.ResponseWriter, _ *http.Request) {
		all := []Mapping{}
		for _, v := range s.List() {
			all = append(all, mapping(v))
		}
		reply(w, all, nil)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	d.serving = append(d.serving, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { server.Close() })()
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the operator tool: %w", err)
		}
		return nil
	})
	return nil
}

// inPool names the pool of an image that comes without; devices and the ids of volumes
// stay what they are.
func inPool(what, pool string) string {
	if strings.Contains(what, "/") || strings.HasPrefix(what, "map:") {
		return what
	}
	return pool + "/" + what
}

func reply(w http.ResponseWriter, answer any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		f := controlFailure{Text: err.Error()}
		for i, is := range store.Sentinels() {
			if errors.Is(err, is) {
				f.Is = append(f.Is, i)
			}
		}
		w.WriteHeader(http.StatusConflict)
		answer = f
	}
	_ = json.NewEncoder(w).Encode(answer) // an error means that nobody listens any more
}

// Control talks to the node process of this host.
type Control struct{ client *http.Client }

// NewControl makes a client of the node process that keeps its state in dir. It
// connects with the first call.
func NewControl(dir string) *Control {
	return &Control{client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, controlSocket))
		},
	}}}
}

// Map makes a device of an image, or of a snapshot for reading; asking again returns
// the same. An empty pool is the default one.
func (c *Control) Map(ctx context.Context, pool, ref string, readOnly bool) (m Mapping, err error) {
	body, err := json.Marshal(stage.MapRequest{Pool: pool, Ref: ref, ReadOnly: readOnly})
	if err != nil {
		return m, err
	}
	return m, c.call(ctx, http.MethodPost, "/map", body, &m)
}

// Unmap ends a device, named by its path or by its image.
func (c *Control) Unmap(ctx context.Context, what string) error {
	return c.call(ctx, http.MethodPost, "/unmap", []byte(what), &struct{}{})
}

// Mapped lists the devices on this host.
func (c *Control) Mapped(ctx context.Context) (all []Mapping, err error) {
	return all, c.call(ctx, http.MethodGet, "/mapped", nil, &all)
}

func (c *Control) call(ctx context.Context, method, path string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the node process of this host: %w: %w", err, store.ErrUnavailable)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("answer of the node process: %w: %w", err, store.ErrUnavailable)
	}
	if resp.StatusCode == http.StatusOK {
		return json.Unmarshal(b, answer)
	}
	var f controlFailure
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("the node process answers %s: %s: %w", resp.Status, b, store.ErrUnavailable)
	}
	return f.err()
}

// err is the error again.
func (f controlFailure) err() error {
	is := []error{}
	for _, i := range f.Is {
		if all := store.Sentinels(); i >= 0 && i < len(all) {
			is = append(is, all[i])
		}
	}
	return &remoteError{text: f.Text, is: is}
}

// remoteError is an error of another process.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }
