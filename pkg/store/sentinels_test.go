package store_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/strata-csi/strata/pkg/store"
)

// TestSentinelsComplete: the list that other packages' tests rely on names every
// sentinel that errors.go declares.
func TestSentinelsComplete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			declared += len(v.Names)
		}
		return true
	})
	if listed := len(store.Sentinels()); listed != declared || declared == 0 {
		t.Errorf("errors.go declares %d sentinels, Sentinels lists %d", declared, listed)
	}
}
