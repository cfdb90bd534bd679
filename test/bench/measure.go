package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// figures of one measurement.
type figures struct {
	rate    float64 // requests a second
	cpu     float64 // of the server, µs a request
	latency float64 // median, µs
}

// measure runs all rounds of a case and prints its table.
func (l *lab) measure(c testCase) error {
	if !strings.Contains(c.name, l.only) {
		return nil
	}
	got := make([][]figures, len(c.subjects))
	for range l.rounds {
		for i, s := range c.subjects {
			f, err := l.once(s, c.workload)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			got[i] = append(got[i], f)
		}
	}
	return printTable(c, got, l.rounds)
}

// once measures one subject.
func (l *lab) once(s subject, w workload) (f figures, err error) {
	uri, pid, end, err := s.begin()
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, end()) }()
	args := []string{"--name=x", "--rw=" + w.rw, "--bs=" + w.bs,
		fmt.Sprintf("--iodepth=%d", w.depth), fmt.Sprintf("--size=%dm", imageSize), "--output-format=json"}
	if strings.HasPrefix(uri, "/dev/") {
		args = append(args, "--ioengine=libaio", "--direct=1", "--filename="+uri)
	} else {
		args = append(args, "--ioengine=nbd", "--uri="+uri)
	}
	if !w.once {
		args = append(args, "--time_based", fmt.Sprintf("--runtime=%dms", l.seconds.Milliseconds()))
	}
	before, err := cpuTime(pid)
	if err != nil {
		return f, err
	}
	var complaints bytes.Buffer
	cmd := exec.CommandContext(l.ctx, "fio", args...)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return f, fmt.Errorf("fio: %w\n%s", err, complaints.Bytes())
	}
	after, err := cpuTime(pid)
	if err != nil {
		return f, err
	}
	return parse(out, w, after-before)
}

// report is what is used of fio's.
type report struct {
	Jobs []struct {
		Read, Write struct {
			IOPS  float64 `json:"iops"`
			Total float64 `json:"total_ios"`
			Clat  struct {
				Percentile map[string]float64 `json:"percentile"`
			} `json:"clat_ns"`
		}
	}
}

func parse(out []byte, w workload, cpu time.Duration) (figures, error) {
	at := bytes.IndexByte(out, '{') // engines may print lines of their own before
	if at < 0 {
		return figures{}, fmt.Errorf("fio answered no JSON: %q", out)
	}
	var r report
	if err := json.Unmarshal(out[at:], &r); err != nil {
		return figures{}, fmt.Errorf("fio's report: %w", err)
	}
	if len(r.Jobs) != 1 {
		return figures{}, fmt.Errorf("fio reports %d jobs", len(r.Jobs))
	}
	side := r.Jobs[0].Read
	if strings.Contains(w.rw, "write") {
		side = r.Jobs[0].Write
	}
	if side.Total == 0 {
		return figures{}, errors.New("fio did nothing")
	}
	return figures{
		rate:    side.IOPS,
		cpu:     float64(cpu.Microseconds()) / side.Total,
		latency: side.Clat.Percentile["50.000000"] / 1000,
	}, nil
}

// cpuTime of a process so far, see proc_pid_stat(5).
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	stat := string(b)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	var ticks int64
	for _, i := range []int{11, 12} { // utime and stime
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	return time.Duration(ticks) * tick, nil
}

// median of one figure over the rounds.
func median(all []figures, pick func(figures) float64) float64 {
	values := make([]float64, len(all))
	for i, f := range all {
		values[i] = pick(f)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func rate(f figures) float64    { return f.rate }
func cpu(f figures) float64     { return f.cpu }
func latency(f figures) float64 { return f.latency }

func printTable(c testCase, got [][]figures, rounds int) error {
	fmt.Printf("\n%s, median of %d alternated rounds (target: %s)\n", c.name, rounds, c.target)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\trequests/s\tserver CPU µs\tlatency µs\t"+c.subjects[0].name+": rate\tCPU\tlatency\t")
	null := 0.0
	for i, s := range c.subjects {
		if s.name == "nbdkit null" {
			null = median(got[i], rate)
		}
	}
	first := got[0]
	for i, s := range c.subjects {
		r, p, t := median(got[i], rate), median(got[i], cpu), median(got[i], latency)
		fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.1f\t", s.name, r, p, t)
		if i > 0 {
			fmt.Fprintf(w, "%.2f\t%.2f\t%.2f\t", median(first, rate)/r, median(first, cpu)/p, median(first, latency)/t)
		} else {
			fmt.Fprint(w, "\t\t\t")
		}
		if null > 0 && i > 0 && null < 1.3*r && s.name != "nbdkit null" {
			fmt.Fprint(w, "the client is the bottleneck")
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
