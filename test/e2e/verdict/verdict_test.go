package verdict

import (
	"strings"
	"testing"
	"time"
)

const report = `<?xml version="1.0"?>
<testsuites><testsuite>
<testcase name="[It] [Driver: d] volumes should store" status="passed" time="12.4"></testcase>
<testcase name="[It] [Driver: d] topology should fail" status="skipped" time="0"><skipped message="skipped - no
 topology | here"></skipped></testcase>
<testcase name="[It] [Driver: d] fits windows" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
<testcase name="[It] [Driver: d] not asked for" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
<testcase name="[It] [Driver: d] breaks" status="timedout" time="1"><failure message="too late"></failure></testcase>
<testcase name="[It] of another driver" status="failed" time="1"></testcase>
</testsuite></testsuites>`

func TestRead(t *testing.T) {
	all, err := Read([]byte(report), "[Driver: d] ", map[string]string{"windows$": "no windows"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Verdict{
		{Name: "breaks", Result: Failed, Reason: "timedout: too late", Took: time.Second},
		{Name: "fits windows", Result: Skipped, Reason: "no windows"},
		{Name: "topology should fail", Result: Skipped, Reason: "no\n topology | here"},
		{Name: "volumes should store", Result: Passed, Took: 12400 * time.Millisecond},
	}
	if len(all) != len(want) {
		t.Fatalf("got %d verdicts, want %d: %+v", len(all), len(want), all)
	}
	for i := range want {
		if i == 2 { // attributes of XML have no line breaks
			all[i].Reason, want[i].Reason = strings.Join(strings.Fields(all[i].Reason), " "), "no topology | here"
		}
		if all[i] != want[i] {
			t.Errorf("verdict %d is %+v, want %+v", i, all[i], want[i])
		}
	}
	lines := strings.Split(strings.TrimSpace(Table(all)), "\n")
	if len(lines) != 6 || lines[4] != `| topology should fail | skipped | 0 | no topology \| here |` {
		t.Errorf("table:\n%s", strings.Join(lines, "\n"))
	}
}

func TestReadRefuses(t *testing.T) {
	for name, content := range map[string]string{"no report": "x", "no test": "<testsuites></testsuites>"} {
		if _, err := Read([]byte(content), "[Driver: d] ", nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Read([]byte(report), "[Driver: d] ", map[string]string{"(": "bad"}); err == nil {
		t.Error("a pattern that is none: no error")
	}
}
