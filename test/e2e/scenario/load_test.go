package scenario

import (
	"fmt"

	"github.com/strata-csi/strata/test/e2e/figures"
)

// loadScript writes a file at random and reads all of it back with checksums, past the
// page cache, over and over until it is told to stop, without a break in which a pause
// would be overlooked. An interrupted fio ends with 128.
const loadScript = `fio --name=load --filename=/%[1]s/load --size=8M --rw=randwrite --bs=16k --direct=1 --ioengine=psync --thread \
  --rate_iops=60,60 --verify=crc32c --verify_fatal=1 --verify_backlog=512 --time_based --runtime=86400 --fallocate=none \
  --end_fsync=1 --output-format=terse --terse-version=3 &
fio=$!
(until [ -e /tmp/stop ]; do sleep 1; done; kill -INT $fio) &
wait $fio
code=$?
[ $code = 0 ] || [ $code = 128 ]`

// load starts a pod that verifies a claim under load.
func (s *space) load(claim, node string) {
	s.t.Helper()
	s.pod(pod{name: "load-" + claim, node: node, claims: []string{claim}, script: fmt.Sprintf(loadScript, claim)})
	s.step("load runs on "+claim, func() error {
		if err := s.running("load-" + claim); err != nil {
			return err
		}
		_, err := s.exec("load-"+claim, fmt.Sprintf("until [ -s /%s/load ]; do sleep 1; done", claim))
		return err
	})
}

// endLoad ends it. No request may have failed, nothing may have been read that was not
// written; the longest time a request took is printed.
func (s *space) endLoad(claim string) {
	s.t.Helper()
	s.step("load on "+claim+" told to end", func() error {
		_, err := s.exec("load-"+claim, "touch /tmp/stop")
		return err
	})
	out := must(s, "load on "+claim+" ended", func() (string, error) { return s.finished("load-" + claim) })
	load, err := figures.Read(out)
	if err != nil || load.Read == 0 {
		s.t.Errorf("load on %s, %+v: %v\n%s", claim, load, err, out)
	}
	rep.Say("%s: %d MiB written, %d MiB read back and compared on %s, longest request %v",
		s.t.Name(), load.Written>>20, load.Read>>20, claim, load.Longest)
}
