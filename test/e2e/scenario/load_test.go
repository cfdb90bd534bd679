package scenario

import (
	"fmt"

	"github.com/strata-csi/strata/test/e2e/figures"
)

// loadScript writes a file at random and reads all of it back with checksums, past the
// page cache, round after round until it is told to stop; one line of figures a round.
const loadScript = `round=0
while [ ! -e /tmp/stop ]; do
  fio --name=load --filename=/%[1]s/load --size=8M --rw=randwrite --bs=16k --direct=1 --ioengine=psync --thread \
    --rate_iops=60,60 --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=$round --fallocate=none \
    --end_fsync=1 --output-format=terse --terse-version=3 || exit 1
  round=$((round + 1))
done`

// load starts a pod that verifies a claim under load.
func (s *space) load(claim, node string) {
	s.t.Helper()
	s.pod(pod{name: "load-" + claim, node: node, claims: []string{claim}, script: fmt.Sprintf(loadScript, claim)})
	s.step("load runs on "+claim, func() error { return s.running("load-" + claim) })
}

// endLoad ends it after the round under way. No request may have failed, nothing may
// have been read that was not written; the longest time a request took is printed.
func (s *space) endLoad(claim string) {
	s.t.Helper()
	if _, err := s.exec("load-"+claim, "touch /tmp/stop"); err != nil {
		s.t.Errorf("end load: %v", err)
	}
	out := must(s, "load on "+claim+" ended", func() (string, error) { return s.finished("load-" + claim) })
	rounds, longest, err := figures.Read(out)
	if err != nil || rounds == 0 {
		s.t.Errorf("load on %s, %d rounds: %v\n%s", claim, rounds, err, out)
	}
	rep.Say("%s: %d rounds written and verified on %s, longest request %v", s.t.Name(), rounds, claim, longest)
}
