package store

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/metrics"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// Page is one answer to a LIST.
type Page struct {
	// Rev is the revision of the state that the list is of.
	Rev int64
	// Continue is where the next page begins, "" if there is none.
	Continue string
	// Remaining is how many objects are on later pages, nil if there are none or if that
	// is not known.
	Remaining *int64
	// Items are the objects, as they are stored.
	Items []*view.Item
}

// Select is GetList without decoding: a page of the stored objects that match. The
// predicate of opts is only asked for its limit and continue token, and for whether there
// is a selector.
func (s *Store) Select(ctx context.Context, key string, opts storage.ListOptions, selector view.Selector) (Page, error) {
	var items []*view.Item
	page, err := s.walk(ctx, key, opts, selector, func(i *view.Item) (bool, error) {
		items = append(items, i)
		return true, nil
	})
	page.Items = items
	return page, err
}

// walk calls take with matching objects, in order, until it has taken as many as the
// limit allows.
func (s *Store) walk(ctx context.Context, key string, opts storage.ListOptions, selector view.Selector, take func(*view.Item) (bool, error)) (Page, error) {
	if err := checkSegments(key); err != nil {
		return Page{}, err
	}
	prefix := key
	if opts.Recursive && (prefix == "" || prefix[len(prefix)-1] != '/') {
		prefix += "/"
	}
	src, err := s.source(ctx, prefix, opts, selector)
	if err != nil {
		return Page{}, err
	}
	var last string
	var seen, taken int64
	more, limit := false, opts.Predicate.Limit
	read := src.each(prefix, selector, func(i *view.Item) bool {
		if !opts.Recursive && i.Key != prefix {
			return false
		}
		if limit > 0 && taken >= limit {
			more = true
			return false
		}
		if ctx.Err() != nil {
			err = storage.NewTimeoutError(i.Key, "request did not complete within requested timeout")
			return false
		}
		last = i.Key
		seen++
		var took bool
		if took, err = take(i); took {
			taken++
		}
		return err == nil
	})
	src.listed(s.cfg.Resource, selector, read, int(taken))
	if err != nil {
		return Page{}, err
	}
	var count int64
	if more {
		if opts.Predicate.Empty() { // nobody is told otherwise
			count = src.count(prefix)
		}
		src.retain(view.Place{Prefix: prefix, From: last + "\x00"}, count-seen)
	}
	page := Page{Rev: src.rev}
	page.Continue, page.Remaining, err = storage.PrepareContinueToken(last, prefix, src.rev, count, more, opts)
	return page, err
}

// source is where the objects of one LIST come from, in key order.
type source struct {
	rev   int64
	from  string // continue here, "" for the first
	table *view.Table
	snap  view.Snapshot
	items []*view.Item // instead of the snapshot, if table is nil
}

// each returns how many objects were looked at.
func (src *source) each(prefix string, selector view.Selector, yield func(*view.Item) bool) int {
	if src.table != nil {
		return src.snap.Select(prefix, src.from, selector, yield)
	}
	for n, i := range src.items {
		if selector.Matches(i) && !yield(i) {
			return n + 1
		}
	}
	return len(src.items)
}

// listed counts the list, under the names that dashboards of kube-apiserver ask for. The
// indexes of the view have no names there: they are made of any label.
func (src *source) listed(of schema.GroupResource, selector view.Selector, read, returned int) {
	backend := metrics.StorageBackendWatchCache
	if src.table == nil {
		backend = metrics.StorageBackendEtcd
	}
	tested := read
	if selector.Empty() {
		tested = 0
	}
	metrics.RecordStorageListMetrics(of, backend, "", read, tested, returned)
}

func (src *source) count(prefix string) int64 {
	if src.table != nil {
		return src.table.CountFrom(src.snap, view.Place{Prefix: prefix, From: src.from})
	}
	return int64(len(src.items))
}

// retain keeps the state for those who come for the next page, and how many objects there
// are from there on; 0 or less if that is not known.
func (src *source) retain(next view.Place, rest int64) {
	if src.table != nil {
		src.table.Retain(src.snap, next, rest)
	}
}

func (s *Store) source(ctx context.Context, prefix string, opts storage.ListOptions, selector view.Selector) (source, error) {
	rev, from, err := storage.ValidateListOptions(prefix, s.versioner, opts)
	if err != nil {
		return source{}, err
	}
	continued := opts.Recursive && opts.Predicate.Continue != ""
	if rev > 0 {
		return s.sourceAt(ctx, prefix, rev, from, continued)
	}
	if err := s.waitForList(ctx, opts); err != nil {
		return source{}, err
	}
	table := s.tableOf(ctx)
	src := source{from: from, table: table}
	if selector.Empty() {
		src.snap = table.Snapshot()
	} else {
		src.snap = table.Selective(selector.Shape)
	}
	src.rev = src.snap.Rev
	return src, nil
}

// sourceAt reads one exact revision.
func (s *Store) sourceAt(ctx context.Context, prefix string, rev int64, from string, continued bool) (source, error) {
	table := s.tableOf(ctx)
	snap, ok := table.At(rev)
	if past := view.PastOf(ctx); past != nil && !ok {
		return source{}, otherRevision(rev, past.Rev)
	} else if ok && past == nil && rev != table.Rev() {
		// What etcd has compacted has expired, even if it is still in memory.
		begun := time.Now()
		_, err := s.cfg.Client.Get(ctx, s.cfg.Prefix, clientv3.WithCountOnly(), clientv3.WithRev(rev))
		s.asked(ctx, "getCurrentResourceVersion", begun, err)
		if err != nil {
			return source{}, s.listError(err, prefix, from, rev, continued)
		}
	}
	if ok {
		return source{rev: rev, from: from, table: table, snap: snap}, nil
	}
	start := max(prefix, from)
	var items []*view.Item
	for {
		begun := time.Now()
		resp, err := s.cfg.Client.Get(ctx, start, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithRev(rev), clientv3.WithLimit(etcdPage))
		s.asked(ctx, "list", begun, err)
		if err != nil {
			return source{}, s.listError(err, prefix, from, rev, continued)
		}
		for _, kv := range resp.Kvs {
			object, err := schemas.ObjectOf(kv.Value)
			if err != nil {
				return source{}, storage.NewInternalError(fmt.Errorf("stored value of %s: %w", kv.Key, err))
			}
			items = append(items, &view.Item{Key: string(kv.Key), Rev: kv.ModRevision, Object: object})
		}
		if !resp.More {
			break
		}
		start = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	return source{rev: rev, from: from, items: items}, nil
}
