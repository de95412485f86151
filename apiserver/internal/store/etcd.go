package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apiserver/pkg/storage"
	etcdmetrics "k8s.io/apiserver/pkg/storage/etcd3/metrics"

	"github.com/rutter-project/rutter/schemas"
)

// errConflict: the key was not at the revision the transaction expected.
var errConflict = errors.New("revision conflict")

// put writes object at key if the key is still at revision expect (0: absent).
// On errConflict the returned pair is what is there, nil if nothing is.
func (s *Store) put(ctx context.Context, key string, object []byte, expect int64, ttl uint64) (int64, *mvccpb.KeyValue, error) {
	sealed, err := s.seal(key, object)
	if err != nil {
		return 0, nil, storage.NewInternalError(fmt.Errorf("seal %s: %w", key, err))
	}
	value, err := schemas.EncodeValue(s.cfg.Header(ctx), sealed)
	if err != nil {
		return 0, nil, storage.NewInternalError(fmt.Errorf("encode %s: %w", key, err))
	}
	var opts []clientv3.OpOption
	if ttl != 0 {
		lease, err := s.cfg.Leases.get(ctx, int64(ttl))
		if err != nil {
			return 0, nil, fmt.Errorf("lease of %d s for %s: %w", ttl, key, err)
		}
		opts = append(opts, clientv3.WithLease(lease))
	}
	operation := "update"
	if expect == 0 {
		operation = "create"
	}
	return s.commit(ctx, operation, key, expect, clientv3.OpPut(key, string(value), opts...))
}

// remove deletes key if it is still at revision expect, leaving the header of the
// delete at the cause key in the same transaction.
func (s *Store) remove(ctx context.Context, key string, expect int64) (int64, *mvccpb.KeyValue, error) {
	header, err := schemas.EncodeValue(s.cfg.Header(ctx), nil)
	if err != nil {
		return 0, nil, storage.NewInternalError(fmt.Errorf("encode header of the delete of %s: %w", key, err))
	}
	return s.commit(ctx, "delete", key, expect, clientv3.OpDelete(key), clientv3.OpPut(s.cfg.CauseKey, string(header)))
}

func (s *Store) commit(ctx context.Context, operation, key string, expect int64, ops ...clientv3.Op) (int64, *mvccpb.KeyValue, error) {
	begun := time.Now()
	resp, err := s.cfg.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", expect)).
		Then(ops...).
		Else(clientv3.OpGet(key)).
		Commit()
	s.asked(ctx, operation, begun, err)
	if err != nil {
		return 0, nil, fmt.Errorf("commit %s: %w", key, err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil, nil
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return 0, nil, errConflict
	}
	return 0, kvs[0], errConflict
}

// fetch reads the key from etcd, linearizable; nil if nothing is there.
func (s *Store) fetch(ctx context.Context, key string) (*mvccpb.KeyValue, error) {
	begun := time.Now()
	resp, err := s.cfg.Client.Get(ctx, key)
	s.asked(ctx, "get", begun, err)
	switch {
	case err != nil:
		return nil, fmt.Errorf("get %s: %w", key, err)
	case len(resp.Kvs) == 0:
		return nil, nil
	}
	return resp.Kvs[0], nil
}

// read is fetch, decoded.
func (s *Store) read(ctx context.Context, key string, ignoreNotFound bool) (state, error) {
	kv, err := s.fetch(ctx, key)
	if err != nil {
		return state{}, err
	}
	return s.stateOf(key, kv, ignoreNotFound)
}

// stateOf decodes what etcd holds; nil is "nothing there".
func (s *Store) stateOf(key string, kv *mvccpb.KeyValue, ignoreNotFound bool) (state, error) {
	if kv == nil {
		if !ignoreNotFound {
			return state{}, storage.NewKeyNotFoundError(key, 0)
		}
		return state{obj: s.cfg.NewFunc(), current: true}, nil
	}
	sealed, err := schemas.ObjectOf(kv.Value)
	if err != nil {
		return state{}, storage.NewInternalError(fmt.Errorf("stored value of %s: %w", key, err))
	}
	object, stale, err := s.open(key, sealed, kv.ModRevision)
	if err != nil {
		return state{}, err
	}
	obj, err := s.decode(object, kv.ModRevision)
	if err != nil {
		return state{}, err
	}
	return state{obj: obj, object: object, rev: kv.ModRevision, current: true, stale: stale}, nil
}

// Leases hands out etcd leases for objects that expire, one lease for all objects
// of a similar lifetime written within its window, since each lease costs etcd a
// raft entry and a timer.
type Leases struct {
	client *clientv3.Client
	mu     sync.Mutex
	last   map[int64]grant // by requested TTL in seconds; guarded by mu
}

type grant struct {
	id    clientv3.LeaseID
	until time.Time // objects written before may still join
	left  int
}

const (
	leaseWindow     = time.Minute
	objectsPerLease = 1000 // revoking a lease deletes all its keys in one transaction
)

// NewLeases returns a lease pool on the client.
func NewLeases(client *clientv3.Client) *Leases {
	return &Leases{client: client, last: map[int64]grant{}}
}

// get returns a lease that lives at least ttl seconds and at most a window longer.
func (l *Leases) get(ctx context.Context, ttl int64) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if g, ok := l.last[ttl]; ok && g.left > 0 && now.Before(g.until) {
		g.left--
		l.last[ttl] = g
		return g.id, nil
	}
	window := min(leaseWindow, time.Duration(ttl)*time.Second/10)
	resp, err := l.client.Grant(ctx, ttl+int64(window/time.Second))
	if err != nil {
		return 0, err
	}
	if full, ok := l.last[ttl]; ok {
		etcdmetrics.UpdateLeaseObjectCount(int64(objectsPerLease - full.left))
	}
	l.last[ttl] = grant{id: resp.ID, until: now.Add(window), left: objectsPerLease - 1}
	return resp.ID, nil
}
