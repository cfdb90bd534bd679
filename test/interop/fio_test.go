package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// fioJob is what the tests read of fio's report on one job.
type fioJob struct {
	Name  string `json:"jobname"`
	Error int    `json:"error"`
	Read  fioIO  `json:"read"`
	Write fioIO  `json:"write"`
	Trim  fioIO  `json:"trim"`
}

type fioIO struct {
	Total int64 `json:"total_ios"`
	Bytes int64 `json:"io_bytes"`
}

// fio runs one job over the nbd engine and fails the test on any error fio tells.
func fio(l *tool, uri string, options ...string) fioJob {
	l.t.Helper()
	job, err := tryFio(l, uri, options...)
	if err != nil {
		l.t.Fatal(err)
	}
	return job
}

func tryFio(l *tool, uri string, options ...string) (fioJob, error) {
	dir, err := os.MkdirTemp("", "strata-fio")
	if err != nil {
		return fioJob{}, err
	}
	defer os.RemoveAll(dir) // fio leaves its verify state where it runs
	report := filepath.Join(dir, "report.json")
	args := append([]string{
		"--name=verify", "--ioengine=nbd", "--uri=" + uri, "--output=" + report, "--output-format=json",
		"--aux-path=" + dir, "--verify_fatal=1", "--verify_state_save=0", "--exitall_on_error",
	}, options...)
	out, err := l.try(args...)
	text, readErr := os.ReadFile(report)
	if err != nil || readErr != nil {
		return fioJob{}, fmt.Errorf("fio %v: %w: %s%s", options, err, out, text)
	}
	var doc struct {
		Jobs []fioJob `json:"jobs"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return fioJob{}, fmt.Errorf("fio: report %s: %w", text, err)
	}
	if len(doc.Jobs) != 1 {
		return fioJob{}, fmt.Errorf("fio: report on %d jobs: %s", len(doc.Jobs), text)
	}
	if doc.Jobs[0].Error != 0 {
		return fioJob{}, fmt.Errorf("fio: error %d: %s", doc.Jobs[0].Error, text)
	}
	return doc.Jobs[0], nil
}

func TestFioVerify(t *testing.T) {
	l := need(t, "fio")
	s := start(t)
	for network, uri := range map[string]func(string) string{"unix": s.uri, "tcp": s.tcpURI} {
		for name, options := range map[string][]string{
			"random 4k": {"--rw=randrw", "--bs=4k", "--iodepth=32", "--verify_backlog=256"},
			"mixed":     {"--rw=randrw", "--bsrange=4k-128k", "--blockalign=4k", "--iodepth=16", "--fsync=32"},
			"sectors":   {"--rw=randwrite", "--bs=512", "--iodepth=8", "--io_size=8m"},
			"stream":    {"--rw=write", "--bs=1m", "--iodepth=8"},
		} {
			t.Run(network+" "+name, func(t *testing.T) {
				image := network + " " + name
				s.strata("create", "--size", "64M", "--block-size", "512", image)
				j := fio(l, uri(image), append(options, "--size=64m", "--verify=crc32c", "--do_verify=1")...)
				if j.Write.Bytes == 0 || j.Read.Bytes == 0 {
					t.Errorf("nothing was written or verified: %+v", j)
				}
				l.result("%s over %s: verify=crc32c, %d MiB written, %d MiB read, err=0",
					name, network, j.Write.Bytes/mib, j.Read.Bytes/mib)
			})
		}
	}
}

// Trims and writes alternate on an image that inherits data.
func TestFioTrim(t *testing.T) {
	l := need(t, "fio")
	s := start(t)
	s.strata("create", "--size", "64M", "parent")
	fio(l, s.uri("parent"), "--rw=write", "--bs=1m", "--size=64m", "--verify=crc32c", "--do_verify=0")
	s.strata("clone", "parent", "child")
	j := fio(l, s.uri("child"), "--rw=randtrimwrite", "--bs=4k", "--iodepth=16", "--size=64m", "--io_size=32m")
	if j.Trim.Total == 0 || j.Write.Total == 0 {
		t.Errorf("no trims or no writes: %+v", j)
	}
	fio(l, s.uri("child"), "--rw=randrw", "--bs=4k", "--iodepth=16", "--size=64m", "--io_size=32m",
		"--verify=crc32c", "--do_verify=1")
	// The parent still has, bit for bit, what the first job wrote.
	fio(l, s.uri("parent"), "--rw=read", "--bs=1m", "--size=64m", "--verify=crc32c")
	l.result("trim and write on a clone: %d trims, %d writes, parent verified", j.Trim.Total, j.Write.Total)
}
