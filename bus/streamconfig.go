package bus

import (
	"reflect"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rutter-project/rutter/schemas"
)

// historyConfig has no compression, so that republishing needs no old block; no
// direct reads, which mirrors would answer wrongly; and nobody may delete from it.
func historyConfig(cfg StreamsConfig, made Streams, firstSeq uint64) jetstream.StreamConfig {
	metadata := map[string]string{epochKey: made.Epoch}
	if made.Cut {
		metadata[cutKey] = "true"
	}
	return jetstream.StreamConfig{
		Name: StreamHistory, Description: "every committed change, once and in order",
		Subjects: []string{schemas.AllObjects, schemas.AllRoutes},
		Storage:  jetstream.FileStorage, Replicas: cfg.Replicas,
		MaxAge: cfg.HistoryAge, MaxBytes: cfg.HistoryBytes, Discard: jetstream.DiscardOld,
		Duplicates: 100 * time.Millisecond, AllowMsgTTL: true, DenyDelete: true, DenyPurge: true,
		FirstSeq: firstSeq, Metadata: metadata,
		RePublish: &jetstream.RePublish{Source: schemas.AllRoutes, Destination: schemas.LiveRoot + schemas.RouteRoot + "{{wildcard(1)}}"},
	}
}

func mirrors(cfg StreamsConfig) []jetstream.StreamConfig {
	objects := &jetstream.StreamSource{Name: StreamHistory, FilterSubject: schemas.AllObjects}
	return []jetstream.StreamConfig{
		{
			Name: StreamState, Description: "the last change of every object", Mirror: objects,
			Storage: jetstream.FileStorage, Replicas: cfg.Replicas, MaxMsgsPerSubject: 1, AllowDirect: true, AllowMsgTTL: true,
			RePublish: &jetstream.RePublish{Source: schemas.AllObjects, Destination: schemas.LiveRoot + schemas.AllObjects},
		},
		{
			Name: StreamArchive, Description: "the past", Mirror: objects,
			Storage: jetstream.FileStorage, Replicas: cfg.Replicas, Compression: jetstream.S2Compression,
			MaxAge: cfg.ArchiveAge, MaxBytes: cfg.ArchiveBytes, Discard: jetstream.DiscardOld, AllowDirect: true,
		},
		{
			Name: StreamLastN, Description: "the last message of every node's route",
			Mirror:  &jetstream.StreamSource{Name: StreamHistory, FilterSubject: schemas.AllRoutes},
			Storage: jetstream.FileStorage, Replicas: cfg.Replicas, MaxMsgsPerSubject: 1, AllowDirect: true, AllowMsgTTL: true,
		},
	}
}

// differs compares what we set in the configuration of a stream. Limits of 0 and
// -1 both mean none.
func differs(have, want jetstream.StreamConfig) bool {
	limit := func(n int64) int64 { return max(n, 0) }
	return have.Replicas != want.Replicas || have.Description != want.Description || have.Compression != want.Compression ||
		have.MaxAge != want.MaxAge || limit(have.MaxBytes) != limit(want.MaxBytes) ||
		limit(have.MaxMsgsPerSubject) != limit(want.MaxMsgsPerSubject) ||
		have.AllowDirect != want.AllowDirect || have.AllowMsgTTL != want.AllowMsgTTL ||
		have.Metadata[epochKey] != want.Metadata[epochKey] || have.Metadata[partialKey] != want.Metadata[partialKey] || have.Metadata[holesKey] != want.Metadata[holesKey] ||
		!slices.Equal(have.Subjects, want.Subjects) || !reflect.DeepEqual(have.RePublish, want.RePublish)
}
