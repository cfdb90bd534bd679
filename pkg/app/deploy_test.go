package app

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/strata-csi/strata/pkg/pool"
)

// The example is valid as it is and with everything that is commented out in it.
func TestExamplePoolsFile(t *testing.T) {
	const path = "../../deploy/pools.yaml"
	if _, err := pool.Load(path); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	option := regexp.MustCompile(`(?m)^( *)# ( *[a-zA-Z]+:( |$))`)
	all := option.ReplaceAllString(string(b), "$1$2")
	if strings.Count(all, "#") == strings.Count(string(b), "#") {
		t.Fatal("no option is commented out")
	}
	cfg, err := pool.Parse(path, []byte(all))
	if err != nil {
		t.Fatalf("with all options: %v\n%s", err, all)
	}
	if cfg.TLS == nil || !cfg.Insecure || cfg.Pools[0].Service == "" || cfg.Pools[0].Local == "" || cfg.Pools[0].Policy.Hard != 64 {
		t.Errorf("with all options: %+v", cfg)
	}
}
