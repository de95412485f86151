package apiserver

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rutter-project/rutter/apiserver/internal/seal"
	"github.com/rutter-project/rutter/schemas"
)

// What stands for a key in Sealing where an object names none.
const (
	SealedUnnamed = seal.Unnamed   // sealed before keys had names
	NotSealed     = seal.NotSealed // not sealed at all
)

// Sealing tells by which keys the Secrets that are in etcd now are sealed.
type Sealing struct {
	Keys    []string                 // names of the key file's keys, the present one first
	Secrets map[string][]schemas.Key // by name of the key; also SealedUnnamed and NotSealed
}

// Outdated are the Secrets that the present key did not seal.
func (s Sealing) Outdated() []schemas.Key {
	var out []schemas.Key
	for name, secrets := range s.Secrets {
		if name != s.Keys[0] {
			out = append(out, secrets...)
		}
	}
	return out
}

// sealedPage is how many Secrets are read from etcd at once.
const sealedPage = 500

// ReadSealing looks at a key file and at all Secrets in etcd. It opens none.
func ReadSealing(ctx context.Context, etcd *clientv3.Client, file string) (Sealing, error) {
	names, err := seal.Names(file)
	if err != nil {
		return Sealing{}, fmt.Errorf("key file: %w", err)
	}
	found := Sealing{Keys: names, Secrets: map[string][]schemas.Key{}}
	prefix := schemas.RegistryPrefix + "core/secrets/"
	for from, end := prefix, clientv3.GetPrefixRangeEnd(prefix); ; {
		page, err := etcd.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(sealedPage))
		if err != nil {
			return Sealing{}, fmt.Errorf("read secrets: %w", err)
		}
		for _, kv := range page.Kvs {
			if err := found.add(string(kv.Key), kv.Value); err != nil {
				return Sealing{}, err
			}
		}
		if !page.More {
			return found, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func (s *Sealing) add(path string, value []byte) error {
	key, err := schemas.ParsePath(path)
	if err != nil {
		return err
	}
	_, object, err := schemas.DecodeValue(value)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	name, err := seal.KeyOf(object)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	s.Secrets[name] = append(s.Secrets[name], key)
	return nil
}

// RotateSealing puts a new key in front of a key file's and returns its name. API servers
// that have loaded the file seal with it from then on; Secrets are sealed anew when they
// are written next.
func RotateSealing(file string) (string, error) { return seal.Rotate(file) }

// ForgetSealing takes a former key out of a key file. What it sealed will never open again,
// neither in etcd nor in the history.
func ForgetSealing(file, key string) error { return seal.Forget(file, key) }
