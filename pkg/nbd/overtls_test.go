package nbd

import (
	"path/filepath"
	"testing"

	"github.com/strata-csi/strata/pkg/pki"
)

// overTLS begins the names of tests whose rig is served and used over TLS.
const overTLS = "TestOverTLS/"

// certificates are of all roles, see pki.RoleFiles.
func certificates(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if err := pki.Init(dir, pki.Terms{Years: 1, CAYears: 2}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What holds for the data path in the clear holds over TLS: what is answered, who
// reads, what is cut, and which memory is held while somebody stalls.
func TestOverTLS(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"Commands":                   TestCommands,
		"ReadBytes":                  TestReadBytes,
		"SparseReads":                TestSparseReads,
		"BlockStatus":                TestBlockStatus,
		"HugeWriteEnds":              TestHugeWriteEnds,
		"DisconnectAnswersAll":       TestDisconnectAnswersWhatWasStarted,
		"ClientRoundTrips":           TestClientRoundTrips,
		"ClientCommands":             TestClientCommands,
		"ClientLosesItsServer":       TestClientLosesItsServer,
		"StandInsTakeOver":           TestStandInsTakeOver,
		"InFlightIsBounded":          TestInFlightIsBounded,
		"BudgetHolds":                TestBudgetHolds,
		"StallingClients":            TestStallingClients,
		"IdleConnectionsHoldNothing": TestIdleConnectionsHoldNothing,
		"TooManyConnections":         TestTooManyConnections,
		"CutUnderLoad":               TestCutUnderLoad,
		"DoneWaits":                  TestDoneWaitsForStartedRequests,
		"CutDropsPartialRequests":    TestCutDropsPartialRequests,
		"CutFromOpen":                TestCutFromOpen,
		"CloseIsGraceful":            TestCloseIsGraceful,
		"CloseCuts":                  TestCloseCuts,
		"SizesHaveTheirOwnMemory":    TestSizesHaveTheirOwnMemory,
		"StalledPeersAreCut":         TestStalledPeersAreCutWhenOthersWait,
		"StalledHeadersAreCut":       TestStalledHeadersAreCutWhenOthersWait,
		"EachMessageHasItsTime":      TestEachMessageHasItsTime,
		"PeerGoesInReply":            TestPeerGoesWhileTheReaderReplies,
		"PeerGoesBeforeReply":        TestPeerGoesWhileTheReaderWaitsToReply,
	} {
		t.Run(name, test)
	}
}
