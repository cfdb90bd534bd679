package guest

import (
	"context"
	"errors"
)

func qemuCommand(ctx context.Context, dir string, m Machine, c Command) ([]string, error) {
	return nil, errors.New("not yet")
}
