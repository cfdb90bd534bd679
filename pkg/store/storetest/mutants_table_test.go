package storetest

import (
	"github.com/strata-csi/strata/pkg/store"
	"github.com/strata-csi/strata/pkg/store/memstore"
)

func mutants() []mutant {
	return append(append(deviceMutants(), storeMutants()...), accessMutants()...)
}

func deviceMutants() []mutant {
	return []mutant{
		{name: "discard is ignored", bend: onDevice(discardIgnored), model: true,
			cases: []string{"TestDeviceDiscard", "TestHideDiscard", "TestHideSubBlock", "TestDiffExact"}},
		{name: "discard clears the edges", bend: onDevice(discardTakesEdges), model: true,
			cases: []string{"TestDeviceDiscard"}},
		{name: "zero clears whole blocks only", bend: onDevice(zeroOnlyWholeBlocks), model: true,
			cases: []string{"TestDeviceZero"}},
		{name: "a partial write clears the rest of the block", bend: onDevice(writeRoundsUp), model: true,
			cases: []string{"TestDeviceSubBlock", "TestHideSubBlock"}},
		{name: "a write over the end is cut", bend: onDevice(writeCutsRange), cases: []string{"TestDeviceRange"}},
		{name: "overlapping writes tear", bend: onDevice(writeTorn),
			cases: []string{"TestConcurrentOverlap"}},
		{name: "extents hide inherited data", bend: onDevice(extentsHideData), model: true,
			cases: []string{"TestDeviceExtents"}},
		{name: "extents cover whole blocks", bend: onDevice(extentsWholeBlocks), model: true,
			cases: []string{"TestDeviceExtents"}},
		{name: "a closed device works", bend: onDevice(closeTwiceHarms), cases: []string{"TestDeviceClosed"}},
		{name: "a write is answered before it is done", bend: newLazy, model: true,
			cases: []string{"TestSnapshotHasAnswered"}},
	}
}

func bending[S store.Full](wrap func(bent) S) func(*memstore.Store) store.Full {
	return func(s *memstore.Store) store.Full { return wrap(bent{s}) }
}

func storeMutants() []mutant {
	return []mutant{
		{name: "discarded data reappears after a snapshot", bend: newForgetful, model: true,
			cases: []string{"TestHideDiscard"}},
		{name: "cut-off data reappears", bend: newRegrowing, model: true,
			cases: []string{"TestHideShrink", "TestHideShrinkSteps", "TestRevertClone"}},
		{name: "overlap grows back", bend: bending(func(b bent) overlapGrows { return overlapGrows{b} }), model: true,
			cases: []string{"TestOverlapOnlyShrinks", "TestHideShrink"}},
		{name: "a clone reads beyond its overlap", bend: bending(func(b bent) leaky { return leaky{b} }), model: true,
			cases: []string{"TestCloneLarger"}},
		{name: "a snapshot follows its image", bend: bending(func(b bent) shared { return shared{b} }), model: true,
			cases: []string{"TestSnapshotIsolation", "TestSnapshotMany", "TestCloneIsolation"}},
		{name: "a diff misses a block", bend: bending(func(b bent) shortDiff { return shortDiff{b} }), model: true,
			cases: []string{"TestDiffExact", "TestDiffApply", "TestDiffFromNothing"}},
		{name: "a diff lists what is unchanged", bend: bending(func(b bent) wideDiff { return wideDiff{b} }),
			cases: []string{"TestDiffExact"}},
		{name: "a removal takes data from clones", bend: bending(func(b bent) orphaning { return orphaning{b} }), model: true,
			cases: []string{"TestRemoveAnyOrder", "TestRemoveLineage"}},
		{name: "what is published is removed", bend: bending(func(b bent) careless { return careless{b} }),
			cases: []string{"TestRemoveRefused", "TestPublishReopen"}},
		{name: "depth stops at one", bend: bending(func(b bent) shallow { return shallow{b} }), model: true,
			cases: []string{"TestCloneDepthSeven", "TestFlattenDeep"}},
		{name: "flatten does nothing", bend: bending(func(b bent) sluggish { return sluggish{b} }), model: true,
			cases: []string{"TestFlattenDeep", "TestFlattenJob", "TestFlattenUnderWrites", "TestOverlapOnlyShrinks"}},
		{name: "walk is out of order", bend: bending(func(b bent) blind { return blind{b} }), cases: []string{"TestWalkOrder"}},
		{name: "the depth policy is ignored", bend: bending(func(b bent) unlimitedDepth { return unlimitedDepth{b} }), model: true,
			cases: []string{"TestPolicySoft", "TestPolicyHard", "TestPolicyHundred"}},
		{name: "a second writer is let in", bend: bending(func(b bent) generous { return generous{b} }),
			cases: []string{"TestPublishOneWriter", "TestPublishReaders", "TestPublishReopen"}},
		{name: "a repeated request makes a new image", bend: bending(func(b bent) repeating { return repeating{b} }),
			cases: []string{"TestCreateDigest", "TestCreateParallelName"}},
		{name: "a revert keeps the size", bend: bending(func(b bent) stiff { return stiff{b} }), model: true,
			cases: []string{"TestRevert"}},
		{name: "a crash loses the last write", bend: newLosing, model: true,
			crash: func(s store.Full) { s.(losing).lose() }},
	}
}
