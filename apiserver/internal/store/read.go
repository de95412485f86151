package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
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
	if err := s.waitAtLeast(ctx, rev); err != nil {
		return err
	}
	item, ok := s.tableOf(ctx).Get(key)
	if !ok {
		return s.notFound(key, opts, out)
	}
	obj, err := s.Object(item)
	if err != nil {
		return err
	}
	if view.PastOf(ctx) != nil {
		obj = obj.DeepCopyObject() // a dry run may be about to change it
	}
	return setObject(out, obj)
}

func (s *Store) getLatest(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	kv, err := s.fetch(ctx, key)
	if err != nil {
		return err
	}
	if kv == nil {
		return s.notFound(key, opts, out)
	}
	object, err := s.objectOf(key, kv)
	if err == nil {
		err = s.decodeInto(object, out, kv.ModRevision)
	}
	return named(key, err)
}

func (s *Store) notFound(key string, opts storage.GetOptions, out runtime.Object) error {
	if opts.IgnoreNotFound {
		return runtime.SetZeroValue(out)
	}
	return storage.NewKeyNotFoundError(key, 0)
}

// waitAtLeast waits until the view is at rev; a revision that etcd has not reached
// yet is refused after the API's usual patience.
func (s *Store) waitAtLeast(ctx context.Context, rev uint64) error {
	if uint64(s.tableOf(ctx).Rev()) >= rev { // revisions are not negative
		return nil
	}
	current, err := s.currentRev(ctx)
	if err != nil {
		return err
	}
	if rev > uint64(current) {
		return storage.NewTooLargeResourceVersionError(rev, uint64(current), 1)
	}
	return s.wait(ctx, int64(rev))
}

func (s *Store) wait(ctx context.Context, rev int64) error {
	if view.PastOf(ctx) != nil {
		return nil // it is all there
	}
	if err := s.waitView(ctx, rev); err != nil {
		return storage.NewTimeoutError(s.cfg.Prefix, fmt.Sprintf("view has not reached revision %d: %v", rev, err))
	}
	return nil
}

// currentRev asks etcd, linearizable. In the past it is the past's.
func (s *Store) currentRev(ctx context.Context) (int64, error) {
	if past := view.PastOf(ctx); past != nil {
		return past.Rev, nil
	}
	begun := time.Now()
	resp, err := s.cfg.Client.Get(ctx, s.cfg.Prefix, clientv3.WithCountOnly())
	s.asked(ctx, "getCurrentResourceVersion", begun, err)
	if err != nil {
		return 0, fmt.Errorf("current revision: %w", err)
	}
	return resp.Header.Revision, nil
}

// GetList implements storage.Interface. Consistent and "not older than" lists come
// from the view's present state; an exact revision or a continue token that the view
// no longer has comes from etcd, which answers as long as it has not compacted it.
func (s *Store) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	ptr, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	items, err := conversion.EnforcePtr(ptr)
	if err != nil || items.Kind() != reflect.Slice {
		return fmt.Errorf("list of %s: items are no slice: %w", s.cfg.Resource, err)
	}
	var objects []runtime.Object
	var unread gaps
	selector, whole := s.selector(opts.Predicate)
	page, err := s.walk(ctx, key, opts, selector, func(i *view.Item) (bool, error) {
		obj, err := s.Object(i)
		if err != nil {
			return false, unread.note(err)
		}
		if !whole {
			if ok, err := opts.Predicate.Matches(obj); err != nil || !ok {
				return false, nil
			}
		}
		objects = append(objects, obj)
		return true, nil
	})
	items.Set(reflect.MakeSlice(items.Type(), len(objects), len(objects)))
	for i, obj := range objects {
		items.Index(i).Set(reflect.ValueOf(obj).Elem())
	}
	if err := unread.failure(s.cfg.Resource, err); err != nil {
		return err
	}
	return s.versioner.UpdateList(list, uint64(page.Rev), page.Continue, page.Remaining)
}

// selector is the part of a predicate that can be decided without decoding, and whether
// that is all of it.
func (s *Store) selector(p storage.SelectionPredicate) (view.Selector, bool) {
	if s.cfg.Shape == nil || p.Field != nil && !s.cfg.Shape.Knows(p.Field) {
		return view.Selector{}, p.Empty()
	}
	return view.Selector{Labels: p.Label, Fields: p.Field, Shape: s.cfg.Shape}, true
}

// waitForList makes the view as new as the options ask: for no resourceVersion, as
// new as etcd is now.
func (s *Store) waitForList(ctx context.Context, opts storage.ListOptions) error {
	if opts.ResourceVersion != "" {
		rev, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
		if err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
		}
		return s.waitAtLeast(ctx, rev)
	}
	if view.PastOf(ctx) != nil {
		return nil // it is all there
	}
	rev, err := s.currentRev(ctx)
	if err != nil {
		return err
	}
	err = s.wait(ctx, rev)
	s.countConsistent(err)
	return err
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
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	token, encodeErr := storage.EncodeContinue(from, prefix, -1)
	if encodeErr != nil {
		return apierrors.NewResourceExpired(continueExpired)
	}
	status := apierrors.NewResourceExpired(continueInconsistently)
	status.ErrStatus.ListMeta = metav1.ListMeta{Continue: token}
	return status
}

// What clients of kube-apiserver are told when etcd has compacted what their token is of.
const (
	continueExpired = "The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter."
	continueInconsistently = "The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
		"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted " +
		"between the time the first chunk was returned and now may show up in the list."
)

func (s *Store) objectOf(key string, kv *mvccpb.KeyValue) ([]byte, error) {
	sealed, err := schemas.ObjectOf(kv.Value)
	if err != nil {
		return nil, storage.NewInternalError(fmt.Errorf("stored value of %s: %w", key, err))
	}
	object, _, err := s.open(key, sealed, kv.ModRevision)
	return object, err
}

// decoder turns what the view holds at key into an object.
func (s *Store) decoder(key string) func([]byte, int64) (runtime.Object, error) {
	return func(sealed []byte, rev int64) (runtime.Object, error) {
		object, _, err := s.open(key, sealed, rev)
		if err != nil {
			return nil, err
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
