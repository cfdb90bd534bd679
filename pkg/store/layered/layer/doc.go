// Package layer keeps one layer of the embedded store: a sparse data file, in
// which offset in file is offset in image, and a map file, which says for every
// block of 4 KiB whether it is absent, data or zero, with a journal of its changes.
//
// # Terms
//
//   - block: 4 KiB. chunk: 1024 blocks, 4 MiB. page: 16384 blocks, 64 MiB.
//   - mark: a change of block states; one journal record, or one per page.
//   - COMMIT: a record that names the last mark whose data is on stable storage.
//   - generation: one filling of one half of the journal.
//   - checkpoint: writing the changed pages, so that their records are done with.
//   - cache id: the life of the page cache. It changes when unsynced writes may
//     have been lost, not when a process ends.
//   - clean: nothing was unflushed. A durable mark, cleared before the next write.
//   - poisoned: a sync failed; read-only for ever.
//
// # Map file
//
// Integers are little endian, checksums CRC-32C. H is the length of a journal half.
//
//	offset            length   what
//	0                 4096     header slot 0
//	4096              4096     header slot 1
//	8192              H        journal half 0 (even generations)
//	8192+H            H        journal half 1 (odd generations)
//	8192+2H+9216n     4608     page n, slot 0
//	8192+2H+9216n+4608 4608    page n, slot 1
//
// Header slot; the one with the higher sequence counts:
//
//	0    8    "strataLM"
//	8    4    checksum of bytes 12 to 4095
//	12   4    format version, 1
//	16   8    sequence, rises with every header
//	24   8    layer
//	32   8    oldest live generation g; records of g and g+1 are replayed
//	40   8    number of the first record of g
//	48   8    pages hold the effect of all records up to this number
//	56   8    clean: number of the last mark
//	64   8    blocks in state data, as of the pages
//	72   8    blocks in state zero, as of the pages
//	80   4    H
//	84   4    flags: 1 clean
//	88   8    the map file is at least this long
//	96   8    the data file is at least this long
//	104  2    length of the cache id, at most 512
//	106  2    length of the poison reason, at most 512
//	108  2    length of the identity, at most 2048
//	110  2    0
//	112       cache id, poison reason, identity (JSON), without gaps
//
// Journal record:
//
//	0    4    checksum of bytes 4 to 31, continued from the checksum of the record
//	          before; the first of a generation continues from the checksum of
//	          layer and generation, 8 bytes each
//	4    1    1 mark, 2 COMMIT
//	5    1    mark: state (0 absent, 1 data, 2 zero)
//	6    2    count of appends that failed before, so that what they left is known
//	8    4    generation, low 32 bits
//	12   4    mark: how many blocks, all in one page
//	16   8    number of the record, one more than the one before, across generations
//	24   8    mark: first block; COMMIT: number of the mark it names
//
// Page slot:
//
//	0    4    0x67707473
//	4    4    checksum of bytes 8 to 511
//	8    8    layer
//	16   8    page number
//	24   8    stamp: the page holds the effect of all records up to this number
//	32   4    blocks in state data
//	36   4    blocks in state zero
//	40   4    checksum of bytes 512 to 4607
//	44   468  0
//	512  4096 states, two bits each, the first block in the low bits
//
// # Invariants
//
//   - A mark is acknowledged when its record and all before it are in the file, so
//     it survives a crash of the process. Its data is in the data file before.
//   - COMMIT is appended after the data sync, and names the last mark that was
//     appended before that sync began. After a loss of the page cache nothing
//     beyond the last COMMIT is believed.
//   - The header is the commit point of a checkpoint. Of every page one slot holds
//     the state that the header on disk counts on; a checkpoint writes the other
//     one, and only after all records in it were committed. A slot with a later
//     stamp than the header's is not looked at, and replay makes its page dirty, so
//     the next checkpoint overwrites it.
//   - A header slot is written only when the other one is durable. A half is used
//     for a new generation only when a header that does not name the old one is.
//   - After a loss of the page cache a generation that no record on disk belongs
//     to is durable before the first record is appended.
//   - A failed sync poisons: page cache and disk may differ from then on, and no
//     later sync would tell.
//
// Writes and syncs of one checkpoint, in order: header sync (usually done already
// by a flush), data sync, COMMIT, map sync, pages, map sync, header.
//
// # What it does not do
//
// It knows nothing of parents: an absent block is the caller's matter. It does not
// order writes to the same block, and does not check offsets against the image's
// size. It does not know who may write. It never relies on holes in the data file.
package layer
