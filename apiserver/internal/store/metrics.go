package store

import (
	"context"
	"errors"
	"strconv"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
	viewmetrics "k8s.io/apiserver/pkg/storage/cacher/metrics"
	etcdmetrics "k8s.io/apiserver/pkg/storage/etcd3/metrics"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// What is counted here has the names that dashboards of kube-apiserver ask for: the view
// is what upstream calls the watch cache. It is counted once a request or a watch, never
// once an object.

// asked counts a request to etcd, also among what the API's request has taken: audit
// records of slow ones say so.
func (s *Store) asked(ctx context.Context, operation string, begun time.Time, err error) {
	etcdmetrics.RecordEtcdRequest(operation, s.cfg.Resource, err, begun)
	request.TrackStorageLatency(ctx, time.Since(begun))
}

// waitView waits for the view and counts for how long.
func (s *Store) waitView(ctx context.Context, rev int64) error {
	begun := time.Now()
	err := s.cfg.View.WaitFor(ctx, rev)
	viewmetrics.WatchCacheReadWait.WithLabelValues(s.cfg.Resource.Group, s.cfg.Resource.Resource).Observe(time.Since(begun).Seconds())
	return err
}

// countConsistent counts a read that was to be as new as etcd.
func (s *Store) countConsistent(err error) {
	viewmetrics.ConsistentReadTotal.WithLabelValues(s.cfg.Resource.Group, s.cfg.Resource.Resource, strconv.FormatBool(err == nil), "false").Inc()
}

// CountInitial counts the objects that a watch began with.
func (s *Store) CountInitial(objects int) {
	viewmetrics.InitCounter.WithLabelValues(s.cfg.Resource.Group, s.cfg.Resource.Resource).Add(float64(objects))
}

// CountEnd counts a watch that ended because its client was too slow.
func (s *Store) CountEnd(err error) {
	if errors.Is(err, view.ErrGone) {
		viewmetrics.TerminatedWatchersCounter.WithLabelValues(s.cfg.Resource.Group, s.cfg.Resource.Resource).Inc()
	}
}
