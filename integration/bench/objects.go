package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// writers work at the same time, each with one request on its way.
const writers = 16

// podJSON is a pod of about 3 kB as it is stored: one in a hundred has a given label, one
// in a hundred is on a given node.
func podJSON(name string, i int) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"labels":{"app":"app-%d","pod-template-hash":"5d4f8c7b96","tier":"backend"},
"annotations":{"example.com/build":"8c1f2f4f0a","example.com/contact":"team-%d@example.com"},
"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"app-%d-5d4f8c7b96","uid":"6f1c2f0e-7f0a-4c7b-9f52-%012d","controller":true,"blockOwnerDeletion":true}]},
"spec":{"nodeName":"node-%d","automountServiceAccountToken":false,"terminationGracePeriodSeconds":30,
"containers":[{"name":"server","image":"registry.example.com/app-%d:v1.2.3","ports":[{"name":"http","containerPort":8080}],
"env":[{"name":"POD_NAME","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},{"name":"LOG_LEVEL","value":"info"},{"name":"PEERS","value":%q}],
"resources":{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"memory":"256Mi"}},
"readinessProbe":{"httpGet":{"path":"/ready","port":"http"},"periodSeconds":5},"livenessProbe":{"httpGet":{"path":"/live","port":"http"}},
"volumeMounts":[{"name":"config","mountPath":"/etc/app"},{"name":"tmp","mountPath":"/tmp"}]}],
"volumes":[{"name":"config","configMap":{"name":"app-%d"}},{"name":"tmp","emptyDir":{}}]}}`,
		name, i%100, i%10, i%100, i, i%100, i%100, strings.Repeat("peer.example.com,", 6), i%100)
}

// fill makes pods until there are n on each side.
func fill(ctx context.Context, n int, sides []*side) error {
	for _, s := range sides {
		progress("%s: %d pods", s.Name, n)
		from := s.pods
		_, err := concurrently(ctx, n-from, func(ctx context.Context, i int) error {
			return s.send(ctx, http.MethodPost, namespace+"/pods", "application/json", podJSON(fmt.Sprintf("pod-%06d", from+i), from+i))
		})
		if err != nil {
			return err
		}
		s.pods = max(n, from)
	}
	return nil
}

// concurrently does n things and returns how long each took.
func concurrently(ctx context.Context, n int, do func(ctx context.Context, i int) error) ([]time.Duration, error) {
	took := make([]time.Duration, max(n, 0))
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range writers {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				begin := time.Now()
				if err := do(ctx, i); err != nil {
					return err
				}
				took[i] = time.Since(begin)
			}
			return nil
		})
	}
	return took, g.Wait()
}
