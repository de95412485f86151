package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/schemas"
)

// changesPerSecond is what the writers aim at: the rate of a cluster of thousands of
// nodes.
const (
	changesPerSecond = 2000
	writerCount      = 32
	keysPerWriter    = 40
	writeTimeout     = 2 * time.Second
	leaseSeconds     = 1
)

// writers change objects as the API server's store does: who and why with every change,
// several keys in a transaction, deletions with their cause, keys that a lease removes.
type writers struct {
	client *clientv3.Client
	seed   uint64
	clock  atomic.Int64 // added to the time of every write, in nanoseconds
	count  atomic.Int64 // changes committed, as far as the writers know
	failed atomic.Int64 // transactions whose end they do not know
}

func (w *writers) jump(d time.Duration) { w.clock.Store(int64(d)) }

func (w *writers) now() time.Time { return time.Now().Add(time.Duration(w.clock.Load())).UTC() }

// run writes until ctx ends.
func (w *writers) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range writerCount {
		wg.Go(func() { w.write(ctx, i) })
	}
	wg.Wait()
}

// meanChanges of one transaction, by the odds in transaction.
const meanChanges = 1.3

func (w *writers) write(ctx context.Context, id int) {
	rng := rand.New(rand.NewPCG(w.seed, uint64(id)))
	interval := time.Duration(float64(time.Second) * writerCount * meanChanges / changesPerSecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		callCtx, cancel := context.WithTimeout(ctx, writeTimeout)
		changes, err := w.transaction(callCtx, id, n, rng)
		cancel()
		if err != nil {
			w.failed.Add(1)
			continue
		}
		w.count.Add(int64(changes))
	}
}

// transaction commits one write and says how many objects it may have changed.
func (w *writers) transaction(ctx context.Context, id, n int, rng *rand.Rand) (int, error) {
	key := func() schemas.Key {
		return schemas.Key{Resource: "pods", Namespace: "shop", Name: fmt.Sprintf("w%d-p%d", id, rng.IntN(keysPerWriter))}
	}
	var ops []clientv3.Op
	changes := 1
	switch k := rng.IntN(100); {
	case k < 15:
		ops = w.deletion(id, n, key())
	case k < 25:
		used := map[schemas.Key]bool{}
		for range 2 + rng.IntN(5) {
			if k := key(); !used[k] {
				used[k] = true
				ops = append(ops, w.put(k, n, rng))
			}
		}
		changes = len(ops)
	case k < 28:
		lease, err := w.client.Grant(ctx, leaseSeconds)
		if err != nil {
			return 0, err
		}
		for i := range 1 + rng.IntN(3) {
			k := schemas.Key{Resource: "events", Namespace: "shop", Name: fmt.Sprintf("w%d-%d-%d", id, n, i)}
			ops = append(ops, w.put(k, n, rng, clientv3.WithLease(lease.ID)))
		}
		changes = 2 * len(ops)
	case k < 30:
		ops = []clientv3.Op{clientv3.OpPut("/rutter/other", fmt.Sprint(n))} // no object
		changes = 0
	default:
		ops = []clientv3.Op{w.put(key(), n, rng)}
	}
	_, err := w.client.Txn(ctx).Then(ops...).Commit()
	return changes, err
}

func (w *writers) header(id, n int, verb string) schemas.Header {
	return schemas.Header{V: schemas.HeaderVersion, Time: w.now(), Verb: verb, User: fmt.Sprint("writer-", id), Manager: "soak", Cause: []int64{int64(n + 1)}}
}

func (w *writers) put(key schemas.Key, n int, rng *rand.Rand, opts ...clientv3.OpOption) clientv3.Op {
	node := ""
	if key.Resource == "pods" && rng.IntN(2) == 0 {
		node = fmt.Sprintf(`"nodeName":"n%d"`, rng.IntN(4))
	}
	object := fmt.Sprintf(`{"kind":"X","metadata":{"name":%q,"namespace":"shop"},"spec":{%s},"n":%d,"pad":"%0*d"}`, key.Name, node, n, 1+rng.IntN(900), 0)
	value, err := schemas.EncodeValue(w.header(n%writerCount, n, "update"), []byte(object))
	if err != nil {
		panic(err) // a header is always encodable
	}
	return clientv3.OpPut(key.Path(), string(value), opts...)
}

func (w *writers) deletion(id, n int, key schemas.Key) []clientv3.Op {
	line, err := w.header(id, n, "delete").Encode()
	if err != nil {
		panic(err)
	}
	return []clientv3.Op{clientv3.OpPut(schemas.CausePrefix+fmt.Sprint("soak-", id), string(line)), clientv3.OpDelete(key.Path())}
}
