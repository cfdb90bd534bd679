package nbd

// KeyBudget is the cost, see KeyCost, after which a connection that the kernel encrypts
// is to be replaced by a fresh one, each direction counted by itself.
//
// RFC 8446, section 5.5, allows 2^24.5 records of full size under one AES-GCM key for
// an attacker's advantage of 2^-57. What matters is the number of 16-byte blocks, about
// 2^34.5, not how records divide them: the bound that the RFC cites is in blocks plus
// records. That is 2^38.5 bytes; 2^38 leaves a margin for the time that replacing takes.
// ChaCha20-Poly1305 has no such limit, and nothing is lost by replacing it as well.
const KeyBudget = 1 << 38

// KeyCost is how much of a key's budget I/O has used at most, in bytes, given how many
// requests went through the device and how many bytes they carried in the direction in
// question, as the kernel counts both in /sys/block/nbd<i>/stat (sectors are 512 bytes).
// Taking the bytes of both directions together errs on the safe side.
//
// A request or reply has up to 28 bytes beside its data, in a record of their own at
// worst; data make one record per page at worst, and another that is not full. Each
// record costs two blocks more than its content: one for the tag and one for what the
// last block is short of.
func KeyCost(requests, bytes int64) int64 {
	const block, page, header = 16, 4096, 2 * 16
	return requests*(header+2*2*block) + bytes + bytes/page*2*block
}
