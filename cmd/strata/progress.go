package main

import (
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bar is one progress bar on the error stream. A nil bar draws nothing.
type bar struct {
	container *mpb.Progress
	bar       *mpb.Bar
}

// progress starts a bar of total bytes, 0 if that is not known yet. It returns nil
// where nobody would see it.
func (c *cli) progress(title string, total int64) *bar {
	if c.noProgress || !c.errIsTerminal || c.format == "json" {
		return nil
	}
	return newBar(c.err, title, total)
}

func newBar(w io.Writer, title string, total int64) *bar {
	p := mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh())
	b := p.New(total, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.PrependDecorators(decor.Name(title+" "), decor.CountersKibiByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace), decor.AverageSpeed(decor.SizeB1024(0), " % .1f")))
	return &bar{container: p, bar: b}
}

// add tells that n more bytes are done.
func (b *bar) add(n int64) {
	if b != nil {
		b.bar.IncrInt64(n)
	}
}

// set tells how many bytes are done in total, and of how many.
func (b *bar) set(done, total int64) {
	if b != nil {
		b.bar.SetTotal(total, false)
		b.bar.SetCurrent(done)
	}
}

// done ends the bar and waits until it is drawn.
func (b *bar) done(success bool) {
	if b == nil {
		return
	}
	if success {
		b.bar.SetTotal(-1, true) // whatever was counted is all there was
	} else {
		b.bar.Abort(false)
	}
	b.container.Wait()
}
