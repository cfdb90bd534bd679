// Package table prints columns that line up, also where names are wider or narrower
// on the screen than in bytes. It does not wrap and does not cut.
package table

import (
	"io"
	"strings"
	"unicode"

	"github.com/mattn/go-runewidth"
)

// Table gathers rows and prints them at once.
type Table struct {
	right []bool
	rows  [][]string
}

// New makes a table with these headings. A heading that starts with '>' makes its
// column right-aligned.
func New(headings ...string) *Table {
	t := &Table{right: make([]bool, len(headings))}
	row := make([]string, len(headings))
	for i, h := range headings {
		row[i], t.right[i] = strings.CutPrefix(h, ">")
	}
	t.rows = append(t.rows, row)
	return t
}

// Row adds a row; cells that are left out are empty.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(t.right))
	for i := range min(len(cells), len(row)) {
		row[i] = clean(cells[i])
	}
	t.rows = append(t.rows, row)
}

// Len is the number of rows without the headings.
func (t *Table) Len() int { return len(t.rows) - 1 }

// WriteTo prints the table.
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	// A terminal's idea of ambiguous characters follows the locale; ours does not.
	cond := &runewidth.Condition{}
	widths := make([]int, len(t.right))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], cond.StringWidth(cell))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-cond.StringWidth(cell))
			if t.right[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// clean keeps text from a store from steering the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
