package aggregation

import (
	"maps"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// kept is what servers said last, by their APIServices: for a while they may not answer,
// and what they serve is described as before.
type kept[T any] struct {
	mu   sync.Mutex
	last map[types.UID]*T // never changed; guarded by mu
}

// or keeps what a server has just said; if that failed it returns what is kept, if
// anything is.
func (k *kept[T]) or(of *apiregistration.APIService, said *T, err error) (*T, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		if k.last == nil {
			k.last = map[types.UID]*T{}
		}
		k.last[of.UID] = said
		return said, nil
	}
	if last, ok := k.last[of.UID]; ok {
		return last, nil
	}
	return nil, err
}

// has tells whether something is kept.
func (k *kept[T]) has(of *apiregistration.APIService) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.last[of.UID]
	return ok
}

// only forgets all that is not of these.
func (k *kept[T]) only(present map[types.UID]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.last, func(uid types.UID, _ *T) bool { return !present[uid] })
}
