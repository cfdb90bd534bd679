// Package doctor examines a host for what strata needs of it and says what to do
// about each thing that is missing.
//
// # Terms
//
//   - finding: one thing looked at, with a level, what was seen and, unless all is
//     well, what to do.
//   - level: Good, Unknown (it could not be examined), Warning (works, with a risk or
//     a loss), Bad (strata or a part of it cannot work).
//
// # Invariants
//
//   - An examination changes nothing: no module is loaded, no device is made, and no
//     file but one unnamed temporary one in the data directory.
//   - Every level but Good says what to do.
//   - All findings are reported, whatever the first ones say.
//
// # What it does not do
//
// It does not look into stores (strata check does) and repairs nothing.
package doctor
