// Package bundle is the file in which an incident is handed on: a span of a cluster's
// history, without the values of Secrets, that opens as an API.
//
// A bundle is
//
//	rutter bundle 1            the format
//	{"rutter":…}               the Header, one line of JSON
//	sha256 <64 hex digits>     of the two lines above
//	…                          a section: zstd over lines of JSON, each a schemas.Event
//	…                          the next section
//	sha256 <64 hex digits>     of everything above
//
// The header says how long each section is and what its digest is, so that whatever is
// cut off or altered is found, and named by its place. The section "state" holds the
// objects as they were at the beginning, in the order of their keys; "events" holds every
// change up to the end, in the order of the log, gaps included. If the log has lost changes of
// the span for good, the section "later" holds the objects as they were behind each such gap,
// at the instants that the header's "later" names.
//
// # Compatibility
//
// A reader refuses formats that it does not know and ignores members of the header that it
// does not know.
package bundle
