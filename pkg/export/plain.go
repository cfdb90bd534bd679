package export

import "strings"

// Published tells whether an export name is that of a publication; any other names an
// image or a snapshot.
func Published(exportName string) bool { return strings.HasPrefix(exportName, publishedPrefix) }
