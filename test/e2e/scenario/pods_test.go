package scenario

import "testing"

func TestNothing(t *testing.T) {}
