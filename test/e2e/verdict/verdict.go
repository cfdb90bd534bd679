// Package verdict reads the reports of upstream test suites, as JUnit, and writes the
// table of what passed, what failed, and why the rest did not run.
package verdict

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Results of a test.
const (
	Passed  = "passed"
	Failed  = "failed"
	Skipped = "skipped"
)

// Verdict is what became of one test.
type Verdict struct {
	Name   string
	Result string // Passed, Failed or Skipped
	Reason string // of a failure or a skip
	Took   time.Duration
}

type message struct {
	Message string `xml:"message,attr"`
}

type testCase struct {
	Name    string  `xml:"name,attr"`
	Status  string  `xml:"status,attr"`
	Seconds float64 `xml:"time,attr"`
	Skipped message `xml:"skipped"`
	Failure message `xml:"failure"`
	Error   message `xml:"error"`
}

// unchosen is the message of tests that the suite was not asked to run; of others that
// were skipped it is their own.
const unchosen = "skipped"

// Read returns the verdicts of a report on tests whose name has a part; what follows it
// is their name in the verdict. leftOut tells by patterns of names why tests were not
// asked for; those that it says nothing of are not in the verdicts.
func Read(report []byte, part string, leftOut map[string]string) ([]Verdict, error) {
	var r struct {
		Suites []struct {
			Cases []testCase `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(report, &r); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	var all []Verdict
	for _, s := range r.Suites {
		for _, c := range s.Cases {
			_, name, found := strings.Cut(c.Name, part)
			if !found {
				continue
			}
			v, ok, err := judge(c, leftOut)
			if err != nil {
				return nil, err
			}
			if ok {
				v.Name = name
				all = append(all, v)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("read report: it has no such test")
	}
	slices.SortFunc(all, func(a, b Verdict) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func judge(c testCase, leftOut map[string]string) (Verdict, bool, error) {
	v := Verdict{Result: c.Status, Took: time.Duration(c.Seconds * float64(time.Second))}
	switch {
	case c.Status == Passed:
	case c.Status == Skipped && c.Skipped.Message == unchosen:
		reason, err := reasonFor(c.Name, leftOut)
		v.Reason = reason
		return v, reason != "", err
	case c.Status == Skipped:
		v.Reason = strings.TrimPrefix(c.Skipped.Message, "skipped - ")
	default: // failed, panicked, timed out, interrupted …
		v.Result, v.Reason = Failed, c.Status+": "+c.Failure.Message+c.Error.Message
	}
	return v, true, nil
}

func reasonFor(name string, leftOut map[string]string) (string, error) {
	for pattern, reason := range leftOut {
		found, err := regexp.MatchString(pattern, name)
		if err != nil {
			return "", fmt.Errorf("read report: %w", err)
		}
		if found {
			return reason, nil
		}
	}
	return "", nil
}

// Table writes verdicts as a table in Markdown.
func Table(all []Verdict) string {
	var b strings.Builder
	b.WriteString("| test | result | seconds | reason |\n|---|---|---|---|\n")
	for _, v := range all {
		fmt.Fprintf(&b, "| %s | %s | %.0f | %s |\n", cell(v.Name), v.Result, v.Took.Seconds(), cell(v.Reason))
	}
	return b.String()
}

// cell keeps text from ending its cell or its line.
func cell(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`)
}
