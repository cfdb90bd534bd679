package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/strata-csi/strata/pkg/app"
)

func TestUpgradeFormat(t *testing.T) {
	b := newBench(t)
	data := filepath.Join(b.dir, "data")
	if r := b.run("upgrade-format"); r.code != 2 || !strings.Contains(r.err, "wants --data") {
		t.Errorf("without a directory: %+v", r)
	}
	if r := b.run("upgrade-format", "--data", data); r.code != 1 || !strings.Contains(r.err, "does not exist") || !strings.Contains(r.err, "hint: ") {
		t.Errorf("of a directory that does not exist: %+v", r)
	}
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- app.Store(ctx, app.Config{Data: data, Init: true, AllowUnsafe: true, Ready: func(app.Serving) { close(ready) }})
	}()
	<-ready
	if r := b.run("upgrade-format", "--data", data); r.code != 1 || !strings.Contains(r.err, "is served by") || !strings.Contains(r.err, "hint: stop that process first") {
		t.Errorf("while it is served: %+v", r)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if r := b.run("upgrade-format", "--data", data); r.code != 0 || r.out != data+" has format 1, which this program works with: nothing to do\n" {
		t.Errorf("where nothing is to do: %+v", r)
	}
	if r := b.run("upgrade-format", "--data", data, "--format", "json"); r.code != 0 || !strings.Contains(r.out, `"version": 1`) || !strings.Contains(r.out, `"current": 1`) {
		t.Errorf("for programs: %+v", r)
	}
}
