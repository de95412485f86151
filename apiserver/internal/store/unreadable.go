package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"

	"github.com/rutter-project/rutter/apiserver/internal/view"
)

// unreadable says that a stored object does not open or does not decode: its bytes are
// damaged, its key is lost, or a webhook does not convert it. Clients may delete such an
// object without reading it, and no other (AllowUnsafeMalformedObjectDeletion).
type unreadable struct {
	what string
	rev  int64
	err  error
}

const (
	notOpened  = "data from the storage is not transformable"
	notDecoded = "object not decodable"
)

func (u *unreadable) Error() string { return fmt.Sprintf("%s revision=%d: %v", u.what, u.rev, u.err) }
func (u *unreadable) Unwrap() error { return u.err }

func isUnreadable(err error) bool {
	var u *unreadable
	return errors.As(err, &u)
}

// named adds to an error of reading one object which one it is.
func named(key string, err error) error {
	if isUnreadable(err) {
		return storage.NewCorruptObjError(key, err)
	}
	return err
}

// removeUnreadable deletes an object that can't be read, and refuses to delete one that
// can: what guards objects (preconditions, finalizers, admission) guards them by what is
// in them.
func (s *Store) removeUnreadable(ctx context.Context, key string, validate storage.ValidateObjectFunc) error {
	resp, err := s.cfg.Client.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("get %s: %w", key, err)
	}
	kvs := resp.Kvs
	for {
		if len(kvs) == 0 {
			return storage.NewKeyNotFoundError(key, 0)
		}
		switch _, err := s.stateOf(key, kvs[0], false); {
		case err == nil:
			return storage.NewInvalidObjError(key, "unsafe deletion is not allowed because the object is decodable from storage")
		case !isUnreadable(err):
			return err
		}
		if validate != nil { // it ends a dry run here
			if err := validate(ctx, nil); err != nil {
				return err
			}
		}
		_, kv, err := s.remove(ctx, key, kvs[0].ModRevision)
		if !errors.Is(err, errConflict) {
			return err
		}
		if kvs = kvs[:0]; kv != nil {
			kvs = append(kvs, kv)
		}
	}
}

// maxUnreadable is of how many objects a LIST tells that they can't be read.
const maxUnreadable = 100

var errTooManyUnreadable = errors.New("too many errors, the list is truncated")

// gaps are the objects that a LIST could not read.
type gaps []*storage.StorageError

// note takes the error of reading an object and returns what is to end the LIST now.
func (g *gaps) note(err error) error {
	var object *storage.StorageError
	if !storage.IsCorruptObject(err) || !errors.As(err, &object) {
		return err
	}
	*g = append(*g, object)
	if len(*g) == maxUnreadable {
		return errTooManyUnreadable
	}
	return nil
}

// failure is what a LIST with gaps answers; ended is what ended it early, if anything did.
func (g gaps) failure(resource schema.GroupResource, ended error) error {
	if len(g) == 0 {
		return ended
	}
	var causes []metav1.StatusCause
	for _, err := range g {
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeUnexpectedServerResponse, Field: err.Key, Message: err.Error()})
	}
	switch {
	case errors.Is(ended, errTooManyUnreadable):
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeTooMany, Message: ended.Error()})
	case ended != nil:
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeUnexpectedServerResponse, Message: ended.Error()})
	}
	message := fmt.Sprintf("failed to read one or more %s from the storage: %v", resource, g[0])
	if len(g) > 1 {
		message += fmt.Sprintf(" (and %d more)", len(g)-1)
	}
	status := readError(message)
	status.ErrStatus.Details = &metav1.StatusDetails{Group: resource.Group, Kind: resource.Resource, Name: "list", Causes: causes}
	return status
}

func readError(message string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
		Reason: metav1.StatusReasonStoreReadError, Message: message}}
}

// lastWords is what a watcher is told when it can't be told what an event is about.
func lastWords(e *view.Event, err error) error {
	if e.Type == view.Deleted && isUnreadable(err) {
		return readError(fmt.Sprintf("saw a DELETED event, but object data is corrupt - %v", err))
	}
	return err
}
