package kinds

import (
	"context"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
)

// tables makes the tables of one storage. Upstream's printers compute ages by the wall
// clock; for a request to the past they are shown a copy in which every time is as much
// later as the instant is ago, so that the ages are those of the instant.
type tables struct {
	rest.TableConvertor
	instant func(ctx context.Context) (time.Time, bool)
}

// ConvertToTable implements rest.TableConvertor.
func (t tables) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	at, past := t.instant(ctx)
	if !past {
		return t.TableConvertor.ConvertToTable(ctx, object, options)
	}
	shift := time.Since(at)
	shown := object.DeepCopyObject()
	shiftTimes(reflect.ValueOf(shown), shift)
	table, err := t.TableConvertor.ConvertToTable(ctx, shown, options)
	if err != nil {
		return nil, err
	}
	for i := range table.Rows { // the objects in the rows are what they were
		if row := table.Rows[i].Object.Object; row != nil {
			shiftTimes(reflect.ValueOf(row), -shift)
		}
	}
	return table, nil
}

var (
	timeType  = reflect.TypeFor[metav1.Time]()
	microType = reflect.TypeFor[metav1.MicroTime]()
)

// shiftTimes moves every time in an object that nobody else has.
func shiftTimes(v reflect.Value, by time.Duration) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			shiftTimes(v.Elem(), by)
		}
	case reflect.Slice:
		for i := range v.Len() {
			shiftTimes(v.Index(i), by)
		}
	case reflect.Struct:
		shiftStruct(v, by)
	default: // no time is in it: maps of Kubernetes' types hold strings and quantities
	}
}

func shiftStruct(v reflect.Value, by time.Duration) {
	switch v.Type() {
	case timeType:
		if t, ok := v.Interface().(metav1.Time); ok && v.CanSet() && !t.IsZero() {
			v.Set(reflect.ValueOf(metav1.Time{Time: t.Add(by)}))
		}
		return
	case microType:
		if t, ok := v.Interface().(metav1.MicroTime); ok && v.CanSet() && !t.IsZero() {
			v.Set(reflect.ValueOf(metav1.MicroTime{Time: t.Add(by)}))
		}
		return
	}
	for i := range v.NumField() {
		if v.Type().Field(i).IsExported() {
			shiftTimes(v.Field(i), by)
		}
	}
}

// storeDepth is how deep in a storage its stores lie at most.
const storeDepth = 4

// ageTables makes all stores in a storage compute ages at the instant of the request.
// Upstream's storages hold their stores in fields, some of them unexported.
func ageTables(storage rest.Storage, instant func(ctx context.Context) (time.Time, bool)) {
	findStores(reflect.ValueOf(storage), storeDepth, func(s *registry.Store) {
		if _, done := s.TableConvertor.(tables); !done && s.TableConvertor != nil {
			s.TableConvertor = tables{TableConvertor: s.TableConvertor, instant: instant}
		}
	})
}

var storeType = reflect.TypeFor[*registry.Store]()

func findStores(v reflect.Value, depth int, found func(*registry.Store)) {
	if depth == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		if v.Type() == storeType {
			found((*registry.Store)(v.UnsafePointer()))
			return
		}
		findStores(v.Elem(), depth, found)
	case reflect.Interface:
		findStores(v.Elem(), depth, found)
	case reflect.Struct:
		for i := range v.NumField() {
			findStores(v.Field(i), depth-1, found)
		}
	default: // stores are nowhere else
	}
}
