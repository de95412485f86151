package schemas

// The documents that others build on are made from the types: header.schema.json,
// event.schema.json, asyncapi.yaml and cloudevents/*.schema.json.
//
//go:generate go test -count=1 -run ^TestDocumentsAreGenerated$ . -update
