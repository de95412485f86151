package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	etcdmetrics "k8s.io/apiserver/pkg/storage/etcd3/metrics"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/rutter-project/rutter/apiserver/internal/seal"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// Sealer hides the values of a resource before etcd and the stream see them.
// Seal and Open are inverse for one key; Open refuses bytes sealed for another with
// seal.ErrTampered.
type Sealer interface {
	Seal(key string, object []byte) ([]byte, error)
	// stale tells that the object should be sealed anew, with the present key, when
	// it is next written.
	Open(key string, object []byte) (plain []byte, stale bool, err error)
}

// Config is what one resource's store is made of. All fields but Sealer,
// Shape and Retired are required.
type Config struct {
	Client   *clientv3.Client
	View     *view.View
	Codec    runtime.Codec // encodes to the storage version as JSON, decodes to the hub
	Resource schema.GroupResource
	NewFunc  func() runtime.Object
	NewList  func() runtime.Object
	// Prefix is the etcd path that keys of this resource begin with, without the
	// trailing slash: /rutter/registry/core/pods.
	Prefix string
	// CauseKey is where the header of a delete is put, /rutter/cause/<API server id>.
	CauseKey string
	// Header tells who is writing and why, from the request's context.
	Header func(ctx context.Context) schemas.Header
	Leases *Leases
	Sealer Sealer // nil: values are stored in the clear
	// Shape is what selectors find in stored objects; nil if that takes decoding, because
	// they may be other objects in the version that the codec decodes to.
	Shape *view.Shape
	// Retired, if not nil, is closed when watches are to end.
	Retired <-chan struct{}
}

// Store implements storage.Interface for one resource. It is safe for concurrent use.
type Store struct {
	cfg       Config
	table     *view.Table
	versioner storage.APIObjectVersioner
}

var _ storage.Interface = (*Store)(nil)

// New returns the store of one resource. The view must be fed from the same etcd.
func New(cfg Config) (*Store, error) {
	if !strings.HasPrefix(cfg.Prefix, schemas.RegistryPrefix) {
		return nil, fmt.Errorf("store of %s: prefix %q does not begin with %s", cfg.Resource, cfg.Prefix, schemas.RegistryPrefix)
	}
	return &Store{cfg: cfg, table: cfg.View.Table(cfg.Prefix)}, nil
}

// Versioner implements storage.Interface.
func (s *Store) Versioner() storage.Versioner { return s.versioner }

// state is an object as stored, at a revision; the zero revision is "does not exist".
type state struct {
	obj     runtime.Object
	object  []byte // JSON without header, opened
	rev     int64
	current bool // read from etcd by this call, so a failed check is final
	stale   bool // must be written again even if nothing changed
}

// Create implements storage.Interface. ttl is in seconds, 0 for no expiry.
func (s *Store) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if view.PastOf(ctx) != nil {
		return errPast
	}
	if rev, err := s.versioner.ObjectResourceVersion(obj); err == nil && rev != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	if err := s.checkKey(key); err != nil {
		return err
	}
	object, err := s.encode(obj)
	if err != nil {
		return err
	}
	rev, _, err := s.put(ctx, key, object, 0, ttl)
	if errors.Is(err, errConflict) {
		return storage.NewKeyExistsError(key, 0)
	}
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	return s.decodeInto(object, out, rev)
}

// Delete implements storage.Interface. The delete and its header are one transaction.
func (s *Store) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, cached runtime.Object, opts storage.DeleteOptions) error {
	if view.PastOf(ctx) != nil {
		return errPast
	}
	if _, err := conversion.EnforcePtr(out); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	if err := s.checkKey(key); err != nil {
		return err
	}
	if opts.ExpectTransformOrDecodeError {
		return s.removeUnreadable(ctx, key, validate)
	}
	st, err := s.initialState(ctx, key, cached, false)
	if err != nil {
		return err
	}
	for {
		err := s.checkDelete(ctx, key, st, preconditions, validate)
		if err != nil {
			if st, err = s.refresh(ctx, key, st, false, err); err != nil {
				return err
			}
			continue
		}
		rev, kv, err := s.remove(ctx, key, st.rev)
		if errors.Is(err, errConflict) {
			if st, err = s.stateOf(key, kv, false); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		return s.decodeInto(st.object, out, rev)
	}
}

func (s *Store) checkDelete(ctx context.Context, key string, st state, preconditions *storage.Preconditions, validate storage.ValidateObjectFunc) error {
	if err := preconditions.Check(key, st.obj); err != nil {
		return err
	}
	if validate == nil {
		return nil
	}
	return validate(ctx, st.obj)
}

// GuaranteedUpdate implements storage.Interface: read, let tryUpdate change it,
// write if nobody was faster, else again with what is there now.
func (s *Store) GuaranteedUpdate(ctx context.Context, key string, dest runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cached runtime.Object) error {
	if view.PastOf(ctx) != nil {
		return errPast
	}
	if _, err := conversion.EnforcePtr(dest); err != nil {
		return fmt.Errorf("update %s: %w", key, err)
	}
	if err := s.checkKey(key); err != nil {
		return err
	}
	st, err := s.initialState(ctx, key, cached, ignoreNotFound)
	if err != nil {
		return err
	}
	for {
		object, ttl, err := s.change(key, st, preconditions, tryUpdate)
		if err != nil {
			if st, err = s.refresh(ctx, key, st, ignoreNotFound, err); err != nil {
				return err
			}
			continue
		}
		if st.rev != 0 && !st.stale && bytes.Equal(object, st.object) {
			if st, err = s.unchanged(ctx, key, st, ignoreNotFound); err != nil {
				return err
			}
			if st.stale || !bytes.Equal(object, st.object) {
				continue
			}
			return s.decodeInto(st.object, dest, st.rev)
		}
		rev, kv, err := s.put(ctx, key, object, st.rev, ttl)
		if errors.Is(err, errConflict) {
			if st, err = s.stateOf(key, kv, ignoreNotFound); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		return s.decodeInto(object, dest, rev)
	}
}

// unchanged returns what etcd holds, for an update that changes nothing of a state that may
// be old: if it was not, admission need not run again.
func (s *Store) unchanged(ctx context.Context, key string, st state, ignoreNotFound bool) (state, error) {
	if st.current {
		return st, nil
	}
	return s.read(ctx, key, ignoreNotFound)
}

// change runs the caller's update on a private copy and encodes the result.
func (s *Store) change(key string, st state, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc) ([]byte, uint64, error) {
	if err := preconditions.Check(key, st.obj); err != nil {
		return nil, 0, err
	}
	obj, ttl, err := tryUpdate(st.obj.DeepCopyObject(), storage.ResponseMeta{ResourceVersion: uint64(st.rev)})
	if err != nil {
		return nil, 0, err
	}
	object, err := s.encode(obj)
	if err != nil {
		return nil, 0, err
	}
	if ttl == nil {
		return object, 0, nil
	}
	return object, *ttl, nil
}

// refresh answers a failed check: if the state came from etcd just now, or etcd
// holds the same revision, the failure stands; otherwise try again on the new state.
func (s *Store) refresh(ctx context.Context, key string, st state, ignoreNotFound bool, cause error) (state, error) {
	if st.current {
		return state{}, cause
	}
	fresh, err := s.read(ctx, key, ignoreNotFound)
	if err != nil {
		return state{}, err
	}
	if fresh.rev == st.rev {
		return state{}, cause
	}
	return fresh, nil
}

// initialState prefers the caller's copy, then the view's; both may be stale,
// which the transaction or refresh finds out.
func (s *Store) initialState(ctx context.Context, key string, cached runtime.Object, ignoreNotFound bool) (state, error) {
	if cached != nil {
		return s.stateFromObject(cached)
	}
	if item, ok := s.table.Get(key); ok {
		object, stale, err := s.open(key, item.Object, item.Rev)
		if err == nil {
			obj, err := item.Decoded(s, s.decoder(key)) // shared with readers: change works on a copy
			if err == nil {
				return state{obj: obj, object: object, rev: item.Rev, stale: stale}, nil
			}
		}
	}
	return s.read(ctx, key, ignoreNotFound)
}

func (s *Store) stateFromObject(obj runtime.Object) (state, error) {
	rev, err := s.versioner.ObjectResourceVersion(obj)
	if err != nil {
		return state{}, fmt.Errorf("resourceVersion of the cached object: %w", err)
	}
	object, err := s.encode(obj)
	if err != nil {
		return state{}, err
	}
	return state{obj: obj, object: object, rev: int64(rev)}, nil
}

// encode serialises an object the one time it is written, without resourceVersion.
func (s *Store) encode(obj runtime.Object) ([]byte, error) {
	rev, err := s.versioner.ObjectResourceVersion(obj)
	if err == nil && rev != 0 {
		obj = obj.DeepCopyObject()
	}
	if err := s.versioner.PrepareObjectForStorage(obj); err != nil {
		return nil, fmt.Errorf("prepare object for storage: %w", err)
	}
	object, err := runtime.Encode(s.cfg.Codec, obj)
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(object, "\n"), nil
}

func (s *Store) decode(object []byte, rev int64) (runtime.Object, error) {
	into := s.cfg.NewFunc()
	if err := s.decodeInto(object, into, rev); err != nil {
		return nil, err
	}
	return into, nil
}

func (s *Store) decodeInto(object []byte, into runtime.Object, rev int64) error {
	got, _, err := s.cfg.Codec.Decode(object, nil, into)
	if err != nil {
		etcdmetrics.RecordDecodeError(s.cfg.Resource)
		return &unreadable{notDecoded, rev, err}
	}
	if got != into {
		dst, err := conversion.EnforcePtr(into)
		if err != nil {
			return err
		}
		dst.Set(reflect.ValueOf(got).Elem())
	}
	return s.versioner.UpdateObject(into, uint64(rev))
}

// checkKey refuses keys outside this resource: a bug above must not reach another
// resource's objects.
func (s *Store) checkKey(key string) error {
	if !strings.HasPrefix(key, s.cfg.Prefix+"/") || strings.HasSuffix(key, "/") {
		return fmt.Errorf("key %q is not a name below %s/", key, s.cfg.Prefix)
	}
	return checkSegments(key)
}

// checkSegments refuses keys that would lead elsewhere if they were a file's, as upstream:
// there is nothing in a namespace of such a name.
func checkSegments(key string) error {
	if whole := key + "/"; strings.Contains(whole, "/../") || strings.Contains(whole, "/./") {
		return fmt.Errorf("invalid key: %q", key)
	}
	return nil
}

func (s *Store) seal(key string, object []byte) ([]byte, error) {
	if s.cfg.Sealer == nil {
		return object, nil
	}
	begun := time.Now()
	sealed, err := s.cfg.Sealer.Seal(key, object)
	value.RecordTransformation(s.cfg.Resource.String(), "to_storage", sealedBy, time.Since(begun), err)
	return sealed, err
}

// open tells an object that will never open from a sealer that can't work now.
func (s *Store) open(key string, object []byte, rev int64) (plain []byte, stale bool, err error) {
	if s.cfg.Sealer == nil {
		return object, false, nil
	}
	begun := time.Now()
	plain, stale, err = s.cfg.Sealer.Open(key, object)
	value.RecordTransformation(s.cfg.Resource.String(), "from_storage", sealedBy, time.Since(begun), err)
	switch {
	case err == nil:
		return plain, stale, nil
	case errors.Is(err, seal.ErrTampered):
		return nil, false, &unreadable{notOpened, rev, err}
	default:
		return nil, false, storage.NewInternalError(fmt.Errorf("open %s: %w", key, err))
	}
}

// sealedBy is what metrics call the one way to seal there is.
const sealedBy = "aesgcm"
