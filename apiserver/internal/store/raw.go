package store

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// Prefix is what the keys of this resource begin with, with the trailing slash.
func (s *Store) Prefix() string { return s.cfg.Prefix + "/" }

// Sealed tells that stored objects do not show their values: they can't be served as
// the bytes they are.
func (s *Store) Sealed() bool { return s.cfg.Sealer != nil }

// Fresh returns the view's table once it is as new as resourceVersion asks: "" as new
// as etcd is now, "0" as it is, N at least N (the API's "not older than").
func (s *Store) Fresh(ctx context.Context, resourceVersion string) (*view.Table, error) {
	return s.tableOf(ctx), s.waitForList(ctx, storage.ListOptions{ResourceVersion: resourceVersion})
}

// Applied waits until the view has what was committed up to rev, of all resources.
func (s *Store) Applied(ctx context.Context, rev int64) error { return s.cfg.View.WaitFor(ctx, rev) }

// Table is the view's table as it is.
func (s *Store) Table() *view.Table { return s.table }

// Raw returns the stored JSON at key and its revision, with the consistency of Get.
func (s *Store) Raw(ctx context.Context, key, resourceVersion string) (*view.Item, error) {
	if err := s.checkKey(key); err != nil {
		return nil, err
	}
	if resourceVersion == "" && view.PastOf(ctx) == nil {
		kv, err := s.fetch(ctx, key)
		if err != nil {
			return nil, err
		}
		if kv == nil {
			return nil, storage.NewKeyNotFoundError(key, 0)
		}
		object, err := s.objectOf(key, kv)
		return &view.Item{Key: key, Rev: kv.ModRevision, Object: object}, err
	}
	rev, err := s.versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	if err := s.waitAtLeast(ctx, rev); err != nil {
		return nil, err
	}
	item, ok := s.tableOf(ctx).Get(key)
	if !ok {
		return nil, storage.NewKeyNotFoundError(key, 0)
	}
	return item, nil
}

// Object is what the view holds, decoded. It is shared and must not be changed.
func (s *Store) Object(i *view.Item) (runtime.Object, error) {
	obj, err := i.Decoded(s, s.decoder(i.Key))
	return obj, named(i.Key, err)
}

// NewObject is an empty object of the kind that is stored.
func (s *Store) NewObject() runtime.Object { return s.cfg.NewFunc() }

// NewList is an empty list of such objects.
func (s *Store) NewList() runtime.Object { return s.cfg.NewList() }

// Shape is what selectors find in stored objects, nil if that takes decoding.
func (s *Store) Shape() *view.Shape { return s.cfg.Shape }

// Forms keeps what is made of stored objects.
func (s *Store) Forms() *view.Forms { return s.cfg.View.Forms }
