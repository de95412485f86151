// Package fakeapi is an API server in memory, for tests of controllers: the kinds that
// controllers read and write, revisions, conflicts, generations, status subresources,
// finalizers, graceful deletion and discovery, and informers fed by its changes.
//
// It speaks HTTP without a socket, so that real clients work on it inside a
// testing/synctest bubble. It does no validation, defaulting or admission.
//
// Concurrency: everything is safe for concurrent use.
package fakeapi
