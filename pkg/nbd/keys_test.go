package nbd

import "testing"

// The cost never falls short of what records really take, however they are cut.
func TestKeyCostCoversRecords(t *testing.T) {
	blocks := func(n int64) int64 { return (n+15)/16 + 1 } // with the tag
	for _, size := range []int64{0, 512, 4096, 65536, 1 << 20, 32 << 20} {
		for _, record := range []int64{4096, 16384} {
			real := blocks(28)
			for left := size; left > 0; left -= record {
				real += blocks(min(left, record) + 1) // and the type of the record
			}
			if cost := KeyCost(1, size); cost < real*16 {
				t.Errorf("%d bytes in records of %d: cost %d, really %d", size, record, cost, real*16)
			}
		}
	}
	full := int64(1) << 24 // records of 16 KiB that the budget must admit
	if KeyCost(0, full<<14) > KeyBudget*9/8 {
		t.Error("the budget is far below what the RFC allows")
	}
}
