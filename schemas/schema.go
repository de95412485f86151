package schemas

import _ "embed"

// HeaderSchema is the JSON Schema (draft 2020-12) of Header.
//
//go:embed header.schema.json
var HeaderSchema []byte

// EventSchema is the JSON Schema (draft 2020-12) of Event as tools print it.
//
//go:embed event.schema.json
var EventSchema []byte
