package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/api/apitesting"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/rutter-project/rutter/apiserver/etcd"
	"github.com/rutter-project/rutter/apiserver/internal/feed"
	"github.com/rutter-project/rutter/apiserver/internal/seal"
	"github.com/rutter-project/rutter/apiserver/internal/view"
	"github.com/rutter-project/rutter/schemas"
)

// fixture is a store of example pods with feed and view on an etcd of its own, under
// the keys that upstream's contract tests use.
type fixture struct {
	*Store
	client      *clientv3.Client
	transformer value.Transformer
}

const root = schemas.RegistryPrefix + "core"

// abs turns a key of the suite ("/pods/<namespace>/<name>") into one of ours.
func abs(key string) string { return root + key }

func newFixture(t *testing.T) (context.Context, *fixture) {
	t.Helper()
	e, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	client := e.Client()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	codec := apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion)

	f := feed.New(client, zerolog.Nop())
	v := view.New(f.WaitFor)
	f.Subscribe(v)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := f.WaitFor(ctx, 1); err != nil {
		t.Fatalf("first snapshot: %v", err)
	}
	fx := &fixture{client: client, transformer: intact}
	fx.Store, err = New(Config{
		Client: client, View: v, Codec: codec,
		Resource: schema.GroupResource{Resource: "pods"},
		NewFunc:  func() runtime.Object { return &example.Pod{} },
		NewList:  func() runtime.Object { return &example.PodList{} },
		Prefix:   abs("/pods"),
		CauseKey: schemas.CausePrefix + "test",
		Header:   func(context.Context) schemas.Header { return schemas.Header{Verb: "test", User: "tester"} },
		Leases:   NewLeases(client),
		Sealer:   fx,
	})
	if err != nil {
		t.Fatal(err)
	}
	return ctx, fx
}

// Seal and Open let the suite put a transformer between the store and etcd.
func (f *fixture) Seal(key string, object []byte) ([]byte, error) {
	return f.transformer.TransformToStorage(context.Background(), object, value.DefaultContext(key))
}

func (f *fixture) Open(key string, object []byte) ([]byte, bool, error) {
	return f.transformer.TransformFromStorage(context.Background(), object, value.DefaultContext(key))
}

// intact is how objects are stored.
var intact = storagetesting.NewPrefixTransformer([]byte("intact!"), false)

// errDamaged is how a sealer says that an object will never open.
var errDamaged = fmt.Errorf("bits flipped: %w", seal.ErrTampered)

// damaged opens nothing.
type damaged struct{ value.Transformer }

func (damaged) TransformFromStorage(context.Context, []byte, value.Context) ([]byte, bool, error) {
	return nil, false, errDamaged
}

// damage makes all objects unreadable, or readable again.
func (f *fixture) damage(broken bool) {
	f.transformer = intact
	if broken {
		f.transformer = damaged{intact}
	}
}

// UpdateTransformer lets the suite damage objects. The view is read anew, because what it
// has decoded before stays readable.
func (f *fixture) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	was := f.transformer
	f.transformer = modify(was)
	f.reread(context.Background())
	return func() { f.transformer = was }
}

func (f *fixture) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	was := f.transformer
	next := *was.(*storagetesting.PrefixTransformer)
	f.transformer = modify(&next)
	return func() { f.transformer = was }
}

// written lets the view reach a write before the next call: the suite reads its own
// writes with resourceVersion "0", which promises that of no server with a cache.
func (f *fixture) written(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	rev, err := f.currentRev(ctx)
	if err != nil {
		return err
	}
	return f.wait(ctx, rev)
}

func (f *fixture) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return f.written(ctx, f.Store.Create(ctx, abs(key), obj, out, ttl))
}

func (f *fixture) Delete(ctx context.Context, key string, out runtime.Object, pre *storage.Preconditions, validate storage.ValidateObjectFunc, cached runtime.Object, opts storage.DeleteOptions) error {
	return f.written(ctx, f.Store.Delete(ctx, abs(key), out, pre, validate, cached, opts))
}

func (f *fixture) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	return f.Store.Get(ctx, abs(key), opts, out)
}

func (f *fixture) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	err := f.Store.GetList(ctx, abs(key), opts, list)
	var status *apierrors.StatusError
	if errors.As(err, &status) && status.ErrStatus.Details != nil {
		causes := status.ErrStatus.Details.Causes
		for i := range causes {
			causes[i].Field = strings.TrimPrefix(causes[i].Field, root)
		}
	}
	return err
}

func (f *fixture) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	return f.Store.Watch(ctx, abs(key), opts)
}

func (f *fixture) GuaranteedUpdate(ctx context.Context, key string, dest runtime.Object, ignoreNotFound bool, pre *storage.Preconditions, try storage.UpdateFunc, cached runtime.Object) error {
	return f.written(ctx, f.Store.GuaranteedUpdate(ctx, abs(key), dest, ignoreNotFound, pre, try, cached))
}

func (f *fixture) increaseRV(ctx context.Context, t *testing.T) int64 {
	resp, err := f.client.Put(ctx, "increase", "outside of what the feed watches")
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

func (f *fixture) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	f.increaseRV(ctx, t) // the suite counts on upstream's compactor, which notes what it does
	rev, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.client.Compact(ctx, rev); err != nil {
		t.Fatal(err)
	}
}

// restart compacts and lets the view begin anew, as an API server that starts does:
// while one runs, its log still holds what etcd has compacted.
func (f *fixture) restart(ctx context.Context, t *testing.T, resourceVersion string) {
	f.compact(ctx, t, resourceVersion)
	f.reread(ctx)
}

// reread lets the view begin anew with what etcd holds.
func (f *fixture) reread(ctx context.Context) {
	rev, entries, _, err := feed.ReadState(ctx, f.client, 0, 1000)
	if err == nil {
		err = f.cfg.View.Reset(rev, entries)
	}
	if err != nil {
		panic(err) // the suite's hooks take no error
	}
}

// without skips a test of the suite that asks for what Rutter leaves out on purpose.
func without(what, why string) func(context.Context, *testing.T, *fixture) {
	return func(_ context.Context, t *testing.T, _ *fixture) {
		t.Skipf("upstream's suite asks for %s which Rutter does not have: %s", what, why)
	}
}

// stored checks what every write must leave in etcd: an envelope whose object has no
// resourceVersion.
func (f *fixture) stored(ctx context.Context, t *testing.T, key string) {
	resp, err := f.client.Get(ctx, abs(key))
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("stored value of %s: %v, %d keys", key, err, len(resp.Kvs))
	}
	header, object, err := schemas.DecodeValue(resp.Kvs[0].Value)
	if err != nil || header.User != "tester" {
		t.Fatalf("stored value of %s: header %+v, %v", key, header, err)
	}
	opened, _, err := f.Open(key, object)
	if err != nil {
		t.Fatal(err)
	}
	obj := &example.Pod{}
	if err := f.decodeInto(opened, obj, 0); err != nil {
		t.Fatal(err)
	}
	if obj.ResourceVersion != "" {
		t.Errorf("stored object of %s has resourceVersion %s", key, obj.ResourceVersion)
	}
}

// lists: the suite counts calls to etcd, which the view makes unnecessary.
func lists(*testing.T, uint64, uint64) {}

// TestStorageContract runs the tests that upstream publishes for storage.Interface.
func TestStorageContract(t *testing.T) {
	type run = func(ctx context.Context, t *testing.T, f *fixture)
	plain := func(fn func(context.Context, *testing.T, storage.Interface)) run {
		return func(ctx context.Context, t *testing.T, f *fixture) { fn(ctx, t, f) }
	}
	for name, test := range map[string]run{
		"Create":                                     func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestCreate(ctx, t, f, f.stored) },
		"CreateWithTTL":                              plain(storagetesting.RunTestCreateWithTTL),
		"CreateWithKeyExist":                         plain(storagetesting.RunTestCreateWithKeyExist),
		"Get":                                        plain(storagetesting.RunTestGet),
		"UnconditionalDelete":                        plain(storagetesting.RunTestUnconditionalDelete),
		"ConditionalDelete":                          plain(storagetesting.RunTestConditionalDelete),
		"DeleteWithSuggestion":                       plain(storagetesting.RunTestDeleteWithSuggestion),
		"DeleteWithSuggestionAndConflict":            plain(storagetesting.RunTestDeleteWithSuggestionAndConflict),
		"DeleteWithConflict":                         plain(storagetesting.RunTestDeleteWithConflict),
		"DeleteWithSuggestionOfDeletedObject":        plain(storagetesting.RunTestDeleteWithSuggestionOfDeletedObject),
		"ValidateDeletionWithSuggestion":             plain(storagetesting.RunTestValidateDeletionWithSuggestion),
		"ValidateDeletionWithOnlySuggestionValid":    plain(storagetesting.RunTestValidateDeletionWithOnlySuggestionValid),
		"PreconditionalDeleteWithSuggestion":         plain(storagetesting.RunTestPreconditionalDeleteWithSuggestion),
		"PreconditionalDeleteWithOnlySuggestionPass": plain(storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass),
		"List": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestList(ctx, t, f, f.compact, false, storagetesting.NewKubernetesRecorder(nil))
		},
		"ConsistentList": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestConsistentList(ctx, t, f, f.increaseRV, true, true, true)
		},
		"GetListNonRecursive": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, f.increaseRV, f)
		},
		"GetListRecursivePrefix": plain(storagetesting.RunTestGetListRecursivePrefix),
		"ListContinuation": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuation(ctx, t, f, lists)
		},
		"ListPaginationRareObject": without("keys with an empty namespace", "the key of a namespaced object has one"),
		"ListContinuationWithFilter": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, f, lists)
		},
		"ListInconsistentContinuation": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, f, f.compact)
		},
		"ListResourceVersionMatch": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestListResourceVersionMatch(ctx, t, f)
		},
		"ListPaging":          plain(storagetesting.RunTestListPaging),
		"NamespaceScopedList": plain(storagetesting.RunTestNamespaceScopedList),
		"GuaranteedUpdate": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdate(ctx, t, f, f.stored)
		},
		"GuaranteedUpdateWithTTL": plain(storagetesting.RunTestGuaranteedUpdateWithTTL),
		"GuaranteedUpdateChecksStoredData": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, f)
		},
		"GuaranteedUpdateWithConflict":              plain(storagetesting.RunTestGuaranteedUpdateWithConflict),
		"GuaranteedUpdateWithSuggestionAndConflict": plain(storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict),
		"TransformationFailure": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestTransformationFailure(ctx, t, f)
		},
		"CompactRevision": without("a compaction revision", "readers of old revisions ask etcd, which knows"),
		"KeySchema":       without("keys relative to a prefix", "stores take whole etcd keys; TestKeysOfOtherResourcesAreRefused has the rules"),
		"ListWithUnreadable": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestGetListWithErrorAggregation(ctx, t, f, errDamaged)
		},
		"WatchWithUnsafeDelete": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchWithUnsafeDelete(ctx, t, f, errDamaged)
		},
		"UnsafeDelete": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, f, f.damage)
		},
		"UnsafeDeleteOfReadable": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, f)
		},
		"UnsafeDeleteOfReadableAgain": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(ctx, t, f, f.damage)
		},
		"Watch":                plain(storagetesting.RunTestWatch),
		"ClusterScopedWatch":   plain(storagetesting.RunTestClusterScopedWatch),
		"NamespaceScopedWatch": plain(storagetesting.RunTestNamespaceScopedWatch),
		"DeleteTriggerWatch":   plain(storagetesting.RunTestDeleteTriggerWatch),
		"WatchFromZero": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestWatchFromZero(ctx, t, f, f.restart)
		},
		"WatchFromNonZero":               plain(storagetesting.RunTestWatchFromNonZero),
		"DelayedWatchDelivery":           plain(storagetesting.RunTestDelayedWatchDelivery),
		"WatchError":                     func(ctx context.Context, t *testing.T, f *fixture) { storagetesting.RunTestWatchError(ctx, t, f) },
		"WatchContextCancel":             plain(storagetesting.RunTestWatchContextCancel),
		"WatcherTimeout":                 plain(storagetesting.RunTestWatcherTimeout),
		"WatchDeleteEventObjectLatestRV": plain(storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV),
		"WatchInitializationSignal":      plain(storagetesting.RunTestWatchInitializationSignal),
		"OptionalWatchBookmarks":         plain(storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, f := newFixture(t)
			test(ctx, t, f)
		})
	}
}

func TestKeysOfOtherResourcesAreRefused(t *testing.T) {
	ctx, f := newFixture(t)
	for _, key := range []string{"", "/", "/pods", "/pods/", "/podsecurity/x", "/secrets/n/s", "/pods/../secrets/n/s"} {
		if err := f.Create(ctx, key, &example.Pod{}, nil, 0); err == nil {
			t.Errorf("Create at %q was accepted", key)
		}
		if err := f.Get(ctx, key, storage.GetOptions{}, &example.Pod{}); err == nil {
			t.Errorf("Get at %q was accepted", key)
		}
	}
}

// TestUpdateThatChangesNothingIsTriedOnce: what it calls for each try may cost much.
func TestUpdateThatChangesNothingIsTriedOnce(t *testing.T) {
	ctx, f := newFixture(t)
	pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}}
	if err := f.Create(ctx, "/pods/n/p", pod, &example.Pod{}, 0); err != nil {
		t.Fatal(err)
	}
	tries := 0
	err := f.GuaranteedUpdate(ctx, "/pods/n/p", &example.Pod{}, false, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		tries++
		return obj, nil
	}), nil)
	if err != nil || tries != 1 {
		t.Errorf("%d tries, %v", tries, err)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
