// Package schemas holds the shapes that Rutter's parts exchange: where an
// object lies in etcd (Key), what is stored there (the envelope: a Header line
// and the object), what travels on the bus (Event), under which subject, and
// how the cause of a write is handed on.
//
// # One object, three names
//
// A Key names an object. Key.Path is its etcd key, Key.Subject its subject on
// the bus, and Key.String the short form that people read and that the
// CloudEvents attribute "subject" carries:
//
//	/rutter/registry/apps/deployments/prod/web
//	h.apps.deployments.prod.web
//	apps/deployments/prod/web
//
// All three can be turned back into the Key they came from. Subject tokens are
// escaped with %XX, so that names with dots, stars or non-ASCII bytes never
// change the number of tokens and never match somebody else's wildcard.
//
// # The envelope
//
// A stored value is one line of JSON saying who wrote it and why, a newline,
// and the object's JSON without a resourceVersion. The two halves are taken
// apart by finding the first newline; nothing is parsed on the way to a reader.
// AppendWithResourceVersion adds the revision, which is known only after the
// commit, while copying the object out.
//
// # Compatibility
//
// Everything here is a wire format. Fields and headers are added, never renamed
// or given another meaning; readers ignore what they do not know. A change that
// readers must notice raises HeaderVersion.
//
// The package depends on the standard library alone; package bundle, in its folder, on zstd.
package schemas
