package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// etcdPage is how many keys one range request to etcd asks for at most.
const etcdPage = 10000

// Get implements storage.Interface. With resourceVersion "0" it answers from the view,
// else from the view once that is as new as asked; "" reads etcd.
func (s *Store) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	if err := s.checkKey(key); err != nil {
		return err
	}
	if opts.ResourceVersion == "" && view.PastOf(ctx) == nil {
		return s.getLatest(ctx, key, opts, out)
	}
	rev, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	if err := s.waitAtLeast(ctx, int64(rev)); err != nil {
		return err
	}
	item, ok := s.tableOf(ctx).Get(key)
	if !ok {
		return s.notFound(key, opts, out)
	}
	obj, err := item.Decoded(s, s.decoder(key))
	if err != nil {
		return err
	}
	return setObject(out, obj)
}

func (s *Store) getLatest(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	resp, err := s.cfg.Client.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("get %s: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return s.notFound(key, opts, out)
	}
	object, err := s.objectOf(key, resp.Kvs[0].Value)
	if err != nil {
		return err
	}
	return s.decodeInto(object, out, resp.Kvs[0].ModRevision)
}

func (s *Store) notFound(key string, opts storage.GetOptions, out runtime.Object) error {
	if opts.IgnoreNotFound {
		return runtime.SetZeroValue(out)
	}
	return storage.NewKeyNotFoundError(key, 0)
}

// waitAtLeast waits until the view is at rev; a revision that etcd has not reached
// yet is refused after the API's usual patience.
func (s *Store) waitAtLeast(ctx context.Context, rev int64) error {
	if rev == 0 || s.tableOf(ctx).Rev() >= rev {
		return nil
	}
	current, err := s.currentRev(ctx)
	if err != nil {
		return err
	}
	if rev > current {
		return storage.NewTooLargeResourceVersionError(uint64(rev), uint64(current), 1)
	}
	return s.wait(ctx, rev)
}

func (s *Store) wait(ctx context.Context, rev int64) error {
	if view.PastOf(ctx) != nil {
		return nil // it is all there
	}
	if err := s.cfg.View.WaitFor(ctx, rev); err != nil {
		return storage.NewTimeoutError(s.cfg.Prefix, fmt.Sprintf("view has not reached revision %d: %v", rev, err))
	}
	return nil
}

// currentRev asks etcd, linearizable. In the past it is the past's.
func (s *Store) currentRev(ctx context.Context) (int64, error) {
	if past := view.PastOf(ctx); past != nil {
		return past.Rev, nil
	}
	resp, err := s.cfg.Client.Get(ctx, s.cfg.Prefix, clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("current revision: %w", err)
	}
	return resp.Header.Revision, nil
}

// source is where the objects of one LIST come from, in key order.
type source struct {
	rev    int64
	from   string // continue here, "" for the first
	ascend func(prefix, from string, yield func(*view.Item) bool)
	count  func(prefix, from string) int64
}

// GetList implements storage.Interface. Consistent and "not older than" lists come
// from the view's present state; an exact revision or a continue token that the view
// has moved past comes from etcd, which answers as long as it has not compacted it.
func (s *Store) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	prefix := key
	if opts.Recursive && (prefix == "" || prefix[len(prefix)-1] != '/') {
		prefix += "/"
	}
	src, err := s.source(ctx, prefix, opts)
	if err != nil {
		return err
	}
	ptr, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	items, err := conversion.EnforcePtr(ptr)
	if err != nil || items.Kind() != reflect.Slice {
		return fmt.Errorf("list of %s: items are no slice: %w", s.cfg.Resource, err)
	}
	items.Set(reflect.MakeSlice(items.Type(), 0, 0))
	last, more, err := s.fill(ctx, prefix, src, opts, items)
	if err != nil {
		return err
	}
	var count int64
	if more {
		count = src.count(prefix, src.from)
	}
	next, remaining, err := storage.PrepareContinueToken(last, prefix, src.rev, count, more, opts)
	if err != nil {
		return err
	}
	return s.versioner.UpdateList(list, uint64(src.rev), next, remaining)
}

// fill appends matching objects until the limit, telling the last key looked at and
// whether there are more behind it.
func (s *Store) fill(ctx context.Context, prefix string, src source, opts storage.ListOptions, items reflect.Value) (last string, more bool, err error) {
	limit := opts.Predicate.Limit
	if limit == 0 && opts.Predicate.Empty() {
		items.Set(reflect.MakeSlice(items.Type(), 0, int(min(src.count(prefix, src.from), 1<<20))))
	}
	each := func(i *view.Item) bool {
		if !opts.Recursive && i.Key != prefix {
			return false
		}
		if limit > 0 && int64(items.Len()) >= limit {
			more = true
			return false
		}
		if err = ctx.Err(); err != nil {
			err = storage.NewTimeoutError(i.Key, "request did not complete within requested timeout")
			return false
		}
		last = i.Key
		var obj runtime.Object
		if obj, err = i.Decoded(s, s.decoder(i.Key)); err != nil {
			return false
		}
		if ok, matchErr := opts.Predicate.Matches(obj); matchErr == nil && ok {
			items.Set(reflect.Append(items, reflect.ValueOf(obj).Elem()))
		}
		return true
	}
	src.ascend(prefix, src.from, each)
	return last, more, err
}

func (s *Store) source(ctx context.Context, prefix string, opts storage.ListOptions) (source, error) {
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
	snap := s.tableOf(ctx).Snapshot()
	return source{rev: snap.Rev, from: from, ascend: snap.Ascend, count: snap.CountFrom}, nil
}

// waitForList makes the view as new as the options ask: for no resourceVersion, as
// new as etcd is now.
func (s *Store) waitForList(ctx context.Context, opts storage.ListOptions) error {
	if opts.ResourceVersion != "" {
		rev, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
		if err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
		}
		return s.waitAtLeast(ctx, int64(rev))
	}
	rev, err := s.currentRev(ctx)
	if err != nil {
		return err
	}
	return s.wait(ctx, rev)
}

// sourceAt reads one exact revision.
func (s *Store) sourceAt(ctx context.Context, prefix string, rev int64, from string, continued bool) (source, error) {
	if snap := s.tableOf(ctx).Snapshot(); snap.Rev == rev {
		return source{rev: rev, from: from, ascend: snap.Ascend, count: snap.CountFrom}, nil
	}
	if past := view.PastOf(ctx); past != nil {
		return source{}, otherRevision(rev, past.Rev)
	}
	start := max(prefix, from)
	var items []*view.Item
	for {
		resp, err := s.cfg.Client.Get(ctx, start, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithRev(rev), clientv3.WithLimit(etcdPage))
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
	return source{rev: rev, from: from,
		ascend: func(_, _ string, yield func(*view.Item) bool) {
			for _, i := range items {
				if !yield(i) {
					return
				}
			}
		},
		count: func(string, string) int64 { return int64(len(items)) },
	}, nil
}

// listError says what a client can do about an etcd refusal: a continue token of a
// compacted revision gets a fresh token for an inconsistent rest of the list.
func (s *Store) listError(err error, prefix, from string, rev int64, continued bool) error {
	switch {
	case errors.Is(err, rpctypes.ErrFutureRev):
		return storage.NewTooLargeResourceVersionError(uint64(rev), uint64(s.table.Rev()), 1)
	case !errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("list %s at revision %d: %w", prefix, rev, err)
	case !continued:
		return apierrors.NewResourceExpired(fmt.Sprintf("The resourceVersion for the provided list is too old: revision %d is no longer kept; list without a resourceVersion.", rev))
	}
	token, encodeErr := storage.EncodeContinue(from, prefix, -1)
	if encodeErr != nil {
		return apierrors.NewResourceExpired("the continue token has expired; start the list again")
	}
	status := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"Start a new list without the continue parameter, or use the token in this response's metadata for a list that goes on from the next key at the latest revision and may be inconsistent with what was returned before.")
	status.ErrStatus.ListMeta = metav1.ListMeta{Continue: token}
	return status
}

func (s *Store) objectOf(key string, value []byte) ([]byte, error) {
	sealed, err := schemas.ObjectOf(value)
	if err != nil {
		return nil, storage.NewInternalError(fmt.Errorf("stored value of %s: %w", key, err))
	}
	object, _, err := s.open(key, sealed)
	if err != nil {
		return nil, storage.NewInternalError(fmt.Errorf("open %s: %w", key, err))
	}
	return object, nil
}

// decoder turns what the view holds at key into an object.
func (s *Store) decoder(key string) func([]byte, int64) (runtime.Object, error) {
	return func(sealed []byte, rev int64) (runtime.Object, error) {
		object, _, err := s.open(key, sealed)
		if err != nil {
			return nil, storage.NewInternalError(fmt.Errorf("open %s: %w", key, err))
		}
		return s.decode(object, rev)
	}
}

// setObject makes out a shallow copy of obj, whose inside stays shared.
func setObject(out, obj runtime.Object) error {
	dst, err := conversion.EnforcePtr(out)
	if err != nil {
		return err
	}
	src, err := conversion.EnforcePtr(obj)
	if err != nil {
		return err
	}
	dst.Set(src)
	return nil
}

// Stats implements storage.Interface.
func (s *Store) Stats(context.Context) (storage.Stats, error) {
	return storage.Stats{ObjectCount: int64(s.table.Len())}, nil
}

// ReadinessCheck implements storage.Interface: reads need the feed's first snapshot.
func (s *Store) ReadinessCheck() error {
	if s.cfg.View.Rev() == 0 {
		return storage.ErrStorageNotReady
	}
	return nil
}

// RequestWatchProgress implements storage.Interface. The feed asks etcd by itself
// when a reader waits.
func (s *Store) RequestWatchProgress(context.Context) error { return nil }

// GetCurrentResourceVersion implements storage.Interface.
func (s *Store) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	rev, err := s.currentRev(ctx)
	return uint64(rev), err
}

// EnableResourceSizeEstimation implements storage.Interface. Sizes are known from the
// view without estimating, so there is nothing to switch on.
func (s *Store) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }

// CompactRevision implements storage.Interface. Readers of old revisions learn of
// compaction from etcd itself.
func (s *Store) CompactRevision() int64 { return 0 }
