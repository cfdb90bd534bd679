package meta

import (
	"fmt"
	"os"

	"github.com/strata-csi/strata/pkg/store"
)

func inspect(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() == 0 {
		return fmt.Errorf("the file is empty: %w", store.ErrCorrupt)
	}
	return nil
}
